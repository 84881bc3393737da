from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from made_runs import made_run
from svdistill.networks import build_network
from svdistill.report.rebuilding import (
    Missing,
    build_student,
    build_teacher,
    student_after,
    student_before,
    trained_teacher,
)
from svdistill.report.runs import Run
from svdistill.runs import load_student
from svdistill.training.reproducibility import derive_seed


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
