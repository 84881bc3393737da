import dataclasses
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import nn

from made_runs import made_run
from svdistill.networks import build_network, describe_network, network_names, profile_network
from svdistill.report import network_table, networks_table
from svdistill.report.networks import (
    Missing,
    build_student,
    build_teacher,
    measure_latencies,
    rebuild,
    student_after,
    student_before,
    trained_teacher,
)
from svdistill.report.runs import Run
from svdistill.runs import load_student
from svdistill.training import derive_seed


def changed(run: Run, **config: object) -> Run:
    return replace(run, config={**run.config, **config})


def are_equal(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_networks_are_those_that_the_run_had(of_timm: Run) -> None:
    torch.manual_seed(derive_seed(3, "weights"))
    before = build_network("timm:test_vit", 10, image_size=32)
    assert are_equal(student_before(of_timm), before)
    after = student_after(of_timm)
    assert are_equal(after, load_student(of_timm.path))
    assert not are_equal(after, before)
    teacher = load_student(of_timm.path.parent / "teacher")
    assert are_equal(trained_teacher(of_timm), teacher)
    assert not any(network.training for network in (student_before(of_timm), after, teacher))


def test_a_student_starts_from_the_weights_that_it_was_given(of_timm: Run) -> None:
    started = changed(of_timm, weights=str(of_timm.path))
    assert are_equal(student_before(started), student_after(of_timm))


def test_no_random_number_is_taken(of_timm: Run) -> None:
    before = torch.get_rng_state()
    for build in (student_before, student_after, trained_teacher):
        build(of_timm)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_published_teacher_is_built_without_its_weights(of_timm: Run) -> None:
    """Its modules are enough to pair them, and its weights are not fetched."""
    published = changed(of_timm, teacher="timm:test_resnet")
    assert build_teacher(published).get_classifier().out_features == 10
    with pytest.raises(Missing, match="has the published weights of timm:test_resnet"):
        trained_teacher(published)
    weights = str(of_timm.path.parent / "teacher" / "student.safetensors")
    assert are_equal(
        trained_teacher(changed(published, teacher_weights=weights)), trained_teacher(of_timm)
    )


def test_a_folder_of_transformers_has_its_weights_at_hand(of_timm: Run, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = transformers.ViTConfig(**sizes, intermediate_size=8, image_size=32, num_labels=10)
    network = transformers.AutoModelForImageClassification.from_config(config)
    network.save_pretrained(tmp_path)
    name = f"hf:{tmp_path}"
    assert are_equal(trained_teacher(changed(of_timm, teacher=name)), network)
    student = replace(of_timm, summary=replace(of_timm.summary, network=name))
    assert are_equal(student_before(changed(student, weights="pretrained")), network)


@pytest.mark.parametrize(
    ("config", "build", "reason"),
    [
        ({"weights": "pretrained"}, student_before, "published weights of timm:test_vit"),
        ({"weights": "gone.safetensors"}, student_before, "gone.safetensors, which is not there"),
        ({"teacher": "", "knowledge": "gone"}, trained_teacher, "learnt from a knowledge store"),
        ({"teacher": "gone"}, trained_teacher, "gone, is not there"),
        ({"teacher": "object"}, trained_teacher, "was given in Python"),
        ({"teacher": "stranger:net"}, trained_teacher, "is code of your own, stranger:net"),
        ({"teacher": "hf:someone/model"}, build_teacher, "on the hub"),
        (
            {"teacher": "timm:test_resnet", "teacher_weights": "gone"},
            trained_teacher,
            "gone, are not there",
        ),
    ],
)
def test_what_is_missing_is_named(
    of_timm: Run, config: dict[str, str], build: Callable[[Run], nn.Module], reason: str
) -> None:
    with pytest.raises(Missing, match=reason):
        build(changed(of_timm, **config))


def test_a_run_without_weights_says_so(of_timm: Run, tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"lacks its weights \(student.safetensors\)"):
        student_after(replace(of_timm, path=tmp_path))
    assert are_equal(build_student(replace(of_timm, path=tmp_path)), student_before(of_timm))
    with pytest.raises(Missing, match="lacks its weights"):
        build_student(made_run(str(tmp_path), "hf:someone/model", side=32))


@pytest.mark.parametrize("network", ["stranger:net", "object"])
def test_no_code_is_run_that_a_run_names(
    network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stranger.py").write_text("raise SystemExit('it was run')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Missing, match="the network of run"):
        build_student(made_run("run", network, side=32))


def test_a_teachers_name_runs_no_code_either(
    distilled: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that do not say their network, or say code, would be built by a name."""
    (tmp_path / "stranger.py").write_text("raise SystemExit('it was run')")
    monkeypatch.chdir(tmp_path)
    weights = distilled.path.parent / "teacher" / "student.safetensors"
    save_file(load_file(weights), tmp_path / "plain.safetensors")
    run = changed(distilled, teacher=str(tmp_path / "plain.safetensors"))
    with pytest.raises(Missing, match="is code of your own, stranger:net"):
        trained_teacher(changed(run, teacher_network="stranger:net"))
    named = changed(run, teacher_network="mobilenet_teacher", teacher_width=0.1)
    assert are_equal(trained_teacher(named), trained_teacher(distilled))


def run_of(name: str, num_classes: int, side: int, width: float = 0.25) -> Run:
    with torch.device("meta"):
        size = profile_network(build_network(name, num_classes, width), (3, side, side))
    counted = {"parameters": size.parameters, "flops": size.flops}
    return made_run(name, name, **counted, width=width, num_classes=num_classes, side=side)


def test_a_network_is_built_as_it_was_for_one_blank_image() -> None:
    network, image = rebuild(run_of("vgg_student", num_classes=37, side=32))
    assert image.shape == (1, 3, 32, 32)
    assert network(image).shape == (1, 37)
    assert not network.training


def test_one_of_another_library_needs_no_weights(of_timm: Run, tmp_path: Path) -> None:
    network, image = rebuild(dataclasses.replace(of_timm, path=tmp_path))
    assert image.shape == (1, 3, 32, 32)
    assert network(image).shape == (1, 10)


def test_rebuilding_draws_from_nobodys_generator() -> None:
    before = torch.get_rng_state()
    rebuild(run_of("vgg_student", num_classes=10, side=16))
    assert torch.equal(torch.get_rng_state(), before)


def test_each_network_is_timed_once(of_timm: Run) -> None:
    slow, fast = run_of("vgg_teacher", 10, 64, 0.5), run_of("vgg_stride_student", 10, 16)
    again = dataclasses.replace(fast, config={**fast.config, "seed": 1})
    measured = measure_latencies([slow, fast, again, of_timm])
    first, second, third = measured.networks
    assert measured.left_out == ()
    assert first.is_of(slow)
    assert second.is_of(fast)
    assert second.is_of(again)
    assert third.is_of(of_timm)
    assert not first.is_of(fast)
    assert 0 < second.milliseconds < first.milliseconds
    assert first.threads == torch.get_num_threads()


def test_networks_that_cannot_be_built_are_left_out_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stranger.py").write_text("raise SystemExit('it was run')")
    monkeypatch.chdir(tmp_path)
    reasons = {
        "stranger:net": "code of your own",
        "object": "given in Python",
        "hf:someone/model": "lacks its weights",
    }
    runs = [made_run(name, name, side=32) for name in reasons]
    measured = measure_latencies([*runs, run_of("vgg_student", 10, 16)])
    assert len(measured.networks) == 1
    for sentence, reason in zip(measured.left_out, reasons.values(), strict=True):
        assert "was not timed: " in sentence
        assert reason in sentence


def test_one_that_its_library_no_longer_has_is_left_out_too(of_timm: Run) -> None:
    renamed = dataclasses.replace(of_timm.summary, network="timm:no_such_network")
    (sentence,) = measure_latencies([dataclasses.replace(of_timm, summary=renamed)]).left_out
    assert "timm: and a name that timm has" in sentence


def test_a_network_that_has_changed_since_is_named() -> None:
    changed = made_run("runs/old", "vgg_student", parameters=1_234_567, flops=7_654_321)
    with pytest.raises(Missing, match="runs/old counted 1,234,567 parameters"):
        rebuild(changed)


def text(table, width=110):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


@pytest.mark.parametrize("name", network_names())
def test_one_network_shows_its_parts_sum_and_deviation(name):
    network = describe_network(name)
    shown = text(network_table(network))
    for stage in network.stages:
        assert stage.path in shown
        assert f"{stage.parameters:,}" in shown
    assert f"{network.profile.parameters:,}" in shown
    assert "paper's table" in shown
    assert ("Deviation:" in shown) == bool(network.published.deviation)


def test_other_settings_are_not_compared_with_the_published_ones():
    shown = text(network_table(describe_network("vgg_student", num_classes=10)))
    assert "paper's table" not in shown


def test_all_networks_have_a_row_with_an_unbroken_name():
    shown = text(networks_table([describe_network(name) for name in network_names()]), width=80)
    for name in network_names():
        assert f" {name} " in shown
