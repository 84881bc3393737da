"""The command line: every command runs, every mistake is one line with exit status 2."""

import json
import re
import subprocess
import sys

import pytest
import yaml

from svdistill.cli import main
from svdistill.cli.manual import COMMANDS
from svdistill.networks.torchvision_models import prepare_torchvision

TINY = ["--network", "mobilenet_student", "--width", "0.1", "--train_size", "100"]
TINY += ["--epochs", "1", "--augmentation", "none"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "teacher"
    words = ["train", *TINY, "--network", "mobilenet_teacher", "-o", str(path)]
    assert main(words) == 0
    return path


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_train_distill_evaluate_in_a_row(teacher, tmp_path, capsys):
    student = tmp_path / "student"
    assert main(["distill", *TINY, "--teacher", str(teacher), "--output", str(student)]) == 0
    printed = capsys.readouterr().out
    assert "teacher:" in printed
    assert str(student) in printed
    assert main(["evaluate", str(student)]) == 0
    accuracy = float(re.search(r"accuracy (\S+) %", capsys.readouterr().out)[1])
    summary = json.loads((student / "summary.json").read_text())
    assert accuracy == pytest.approx(summary["last_accuracy"], abs=0.005)
    assert yaml.safe_load((student / "config.yaml").read_text())["loss"] == "position_gram+dist"
    assert "loss position_gram+dist" in printed


def test_cache_then_distill_from_the_store(teacher, tmp_path, capsys):
    store, student = tmp_path / "store", tmp_path / "student"
    words = ["--train-size", "100", "--augmentation", "crop_flip"]
    cache = ["cache", *words, "--teacher", str(teacher), "--views", "2", "-o", str(store)]
    assert main(cache) == 0
    printed = capsys.readouterr().out
    assert "100 images, 2 views each, " in printed
    assert re.search(r"\d+ bytes per image", printed)
    assert main(cache) == 2
    assert "a finished store" in capsys.readouterr().err
    assert main([*cache, "--resume"]) == 0
    assert main(["distill", *TINY, *words, "--knowledge", str(store), "-o", str(student)]) == 0
    assert "teacher: " in capsys.readouterr().out
    assert (student / "summary.json").exists()


def test_configuration_file_and_flags_agree(teacher, tmp_path, capsys):
    copy = tmp_path / "copy"
    assert main(["train", "--config", str(teacher / "config.yaml"), "--output", str(copy)]) == 0
    first, second = (path / "student.safetensors" for path in (teacher, copy))
    assert first.read_bytes() == second.read_bytes()


def test_print_config_is_a_configuration(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "-o", "somewhere", "--learning-rate", "0.5", "--print_config"])
    assert stop.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["learning_rate"] == 0.5
    assert printed["output"] == "somewhere"


def test_resume_is_a_bare_flag(teacher, tmp_path, capsys):
    before = contents(teacher)
    assert main(["train", *TINY, "-o", str(teacher), "--resume"]) == 2
    assert "finished run" in capsys.readouterr().err
    assert contents(teacher) == before


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_reads_like_a_manual_page(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    page = capsys.readouterr().out
    assert page.startswith("usage: svdistill")
    assert "exit status:" in page
    assert max(map(len, page.splitlines())) <= 100


@pytest.mark.parametrize("option", ["output", "loss", "clip", "num_vectors", "transfer_epochs"])
def test_every_option_of_distill_is_explained(option, capsys):
    with pytest.raises(SystemExit):
        main(["distill", "--help"])
    lines = capsys.readouterr().out.splitlines()
    place = next(n for n, line in enumerate(lines) if line.startswith(f"  --{option}"))
    assert len(" ".join(lines[place : place + 2]).split()) > 5


def test_nothing_prints_the_manual(capsys):
    assert main([]) == 0
    assert "svdistill demo" in capsys.readouterr().out


def test_info_names_parts_and_the_published_size(capsys):
    assert main(["info", "vgg_student"]) == 0
    printed = capsys.readouterr().out
    for expected in ("stage1", "64x16x16", "3,751,652", "121.2M", "121.3M"):
        assert expected in printed
    assert main(["info"]) == 0
    assert "resnext_teacher" in capsys.readouterr().out


@pytest.fixture
def timm():
    prepare_torchvision()
    return pytest.importorskip("timm")


def test_info_of_another_librarys_network(timm, capsys):
    assert main(["info", "timm:resnet18"]) == 0
    printed = capsys.readouterr().out
    for expected in ("1000 classes", "3x224x224", "layer4", "512x7x7", "(rest)", "11,689,512"):
        assert expected in printed
    assert main(["info", "timm:resnet18", "--num_classes", "10", "--image_size", "64"]) == 0
    assert "512x2x2" in capsys.readouterr().out
    assert main(["info", "timm:resnt18"]) == 2
    assert "did you mean 'resnet18'" in capsys.readouterr().err


def test_student_is_another_word_for_the_network_of_distill(timm, teacher, tmp_path, capsys):
    output = tmp_path / "student"
    words = ["--train_size", "50", "--epochs", "1", "--augmentation", "none", "-o", str(output)]
    student = ["--student", "timm:test_resnet", "--weights", ""]
    assert main(["distill", "--teacher", str(teacher), *student, *words]) == 0
    printed = capsys.readouterr().out
    assert "images 16x16" in printed
    assert "adapter" not in printed  # the default compares positions
    assert "timm:test_resnet: " in printed
    assert yaml.safe_load((output / "config.yaml").read_text())["network"] == "timm:test_resnet"
    assert main(["evaluate", str(output)]) == 0


def test_a_network_of_ones_own_is_named_to_be_evaluated(tmp_path, monkeypatch, capsys):
    (tmp_path / "nets_of_the_user.py").write_text(
        "import svdistill\ndef build(num_classes):\n"
        "    return svdistill.build_network('mobilenet_student', num_classes, 0.1)\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ["--network", "nets_of_the_user:build"]
    few = ["--train_size", "50", "--epochs", "1", "--augmentation", "none"]
    assert main(["train", *few, *words, "-o", "run"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "run"]) == 2
    assert "--network for evaluate" in capsys.readouterr().err
    assert main(["evaluate", "run", *words]) == 0
    assert "719 images" in capsys.readouterr().out
    del sys.modules["nets_of_the_user"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["distil"], "did you mean 'distill'?"),
        (["train"], "--output"),
        (["train", "-o", "x", "--epochz", "3"], "did you mean '--epochs'?"),
        (["train", "-o", "x", "--epochs", "many"], "epochs: expected an integer, got 'many'"),
        (["train", "-o", "x", "--epochs", "0"], "epochs: expected an integer of at least 1"),
        (["train", "-o", "x", "--network", "vgg_studnt"], "did you mean 'vgg_student'"),
        (["train", "-o", "x", "--weights", "pretrained"], "weights: expected a weights file"),
        (["train", "-o", "x", "--student", "vgg_student"], "--student"),
        (["train", "-o", "x", "--data", "digit"], "data: "),
        (["train", "-o", "x", "--data", "parquet:nowhere"], "nowhere"),
        (["train", "-o", "x", "--data", "folder:nowhere"], "nowhere"),
        (["train", "-o", "x", "--optimizer", "sdg"], "optimizer: expected one of"),
        (["train", "-o", "x", "--precision", "fp16", "--device", "cpu"], "precision: "),
        (["train", "-o", "x", "--width", "-1"], "width: "),
        (["train", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["distill", "-o", "x"], "teacher: "),
        (["distill", "-o", "x", "--teacher", "t", "--seeds", "0"], "seeds: expected an integer of"),
        (["distill", "-o", "x", "--teacher", "t", "--jobs", "0"], "jobs: expected an integer of"),
        (["distill", "-o", "x", "--teacher", "nowhere"], "teacher: "),
        (["distill", "-o", "x", "--teacher", "no_such_module:net"], "no_such_module"),
        (["distill", "-o", "x", "--teacher", "a", "--knowledge", "b"], "teacher: "),
        (["distill", "-o", "x", "--knowledge", "nowhere"], "nowhere"),
        (["cache", "-o", "x", "--teacher", "nowhere"], "views: expected an integer of at least 1"),
        (["cache", "-o", "x", "--views", "2"], "teacher: "),
        (["cache", "--views", "2"], "--output"),
        (["cache", "-o", "x", "--teacher", "nowhere", "--views", "2"], "teacher: "),
        (["evaluate", "nowhere"], "nowhere"),
        (["info", "vgg"], "choose one of these"),
        (["info", "vgg_student", "--num_classes", "0"], "num_classes: "),
        (["demo", "--seeds", "0"], "seeds: "),
    ],
)
def test_a_mistake_is_one_line_and_status_two(words, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    printed = capsys.readouterr()
    assert expected in printed.err
    assert printed.err.startswith("svdistill: ")
    assert printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--num_vectors", "-1"], "num_vectors: "),
        (["--student_taps", "[stage1,stage9]"], "did you mean"),
        (["--student_taps", "[stage1,stage2]"], "taps: "),
        (["--teacher_weights", "weights.pth"], "teacher_weights: expected nothing"),
        (["--student", "timm:any"], "width: expected 1"),
        (["--classes_every", "2"], "classes"),
        (["--beta", "0"], "beta: "),
        (["--loss", "svd", "--grid", "4"], "grid: expected nothing beside --loss svd"),
        (["--loss", "soft_target", "--temperature", "-4"], "temperature: "),
    ],
)
def test_what_does_not_fit_the_teacher_stops_before_a_run(
    options, expected, teacher, tmp_path, capsys
):
    output = tmp_path / "student"
    words = ["distill", *TINY, "--teacher", str(teacher), "--output", str(output), *options]
    assert main(words) == 2
    assert expected in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    ("command", "keeps"),
    [("train", True), ("distill", True), ("cache", True), ("evaluate", False), ("info", False)],
)
def test_commands_that_train_keep_memory(command, keeps, monkeypatch, capsys):
    calls = []
    # The package's attribute `main` is the function, not the module.
    monkeypatch.setattr(sys.modules[main.__module__], "keep_memory", lambda: calls.append(command))
    for words in (["-o", "x", "--data", "nothing"], ["nothing"]):
        main([command, *words])
    assert calls == ([command] if keeps else [])
    main([command, "-o", "x", "--data", "nothing", "--keep-memory", "false"])
    assert calls == ([command] if keeps else [])


def test_unknown_key_in_yaml_is_named(tmp_path, capsys):
    path = tmp_path / "config.yaml"
    path.write_text("output: x\nepochz: 3\n")
    assert main(["train", "--config", str(path)]) == 2
    assert "did you mean '--epochs'?" in capsys.readouterr().err


def test_as_a_process_the_status_is_two_and_no_traceback():
    command = [sys.executable, "-m", "svdistill", "info", "nothing_like_it"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["train", "--output", "run"], "go on with: svdistill train --output run --resume\n"),
        (
            ["cache", "-o", "my store", "--resume=true"],
            "go on with: svdistill cache -o 'my store' --resume\n",
        ),
        (["reproduce", "networks", "--preset", "smoke"], "the same command goes on"),
        (["info"], "interrupted\n"),
    ],
)
def test_who_interrupts_is_told_how_to_go_on(words, advice, monkeypatch, capsys):
    def interrupted(options):
        raise KeyboardInterrupt

    commands = sys.modules["svdistill.cli.main"]._Commands  # the name itself is the function's
    monkeypatch.setattr(commands, words[0], staticmethod(interrupted))
    assert main(words) == 130
    assert advice in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: &a [x, x]\nb: [*a, *a]\n", "an alias"),
        (b"network: " + b"[" * 30_000, "recursion"),
        (b"\xff\xfe\x00", "decode"),
        (b"network: !!python/object/apply:os.mkdir [exploded]\n", "constructor"),
    ],
)
def test_a_hostile_configuration_is_one_line(tmp_path, monkeypatch, capsys, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "options.yaml").write_bytes(content)
    assert main(["train", "--config", "options.yaml", "--output", "run"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("svdistill: config options.yaml: expected a YAML file with options, got")
    assert message in said
    assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["options.yaml"]


def test_an_option_of_a_file_that_the_loss_does_not_read_is_refused(tmp_path, capsys):
    path = tmp_path / "options.yaml"
    path.write_text("output: x\nteacher: t\nloss: fsp\nbeta: 8.0\n")
    assert main(["distill", "--config", str(path)]) == 2
    assert "beta: expected nothing beside --loss fsp" in capsys.readouterr().err
