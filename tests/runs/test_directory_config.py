import dataclasses

import pytest
import yaml

from svdistill.common.errors import RunError
from svdistill.config.training import DistillConfig, TrainConfig
from svdistill.runs.directory import read_config, require_same, stored_values, to_yaml

# Another value for each field, to resume with.
OTHER = {
    "data": "parquet:x",
    "network": "vgg_teacher",
    "weights": "weights.pth",
    "width": 0.5,
    "image_size": 8,
    "classes_every": 2,
    "classes": "2@0",
    "train_size": 99,
    "dev_fraction": 0.1,
    "unlabelled": "folder:x",
    "label_column": "coarse",
    "image_column": "photo",
    "train_split": "fit",
    "test_split": "cut",
    "augmentation": "none",
    "views": 4,
    "views_seed": 0,
    "epochs": 3,
    "batch_size": 7,
    "accumulate": 2,
    "optimizer": "adamw",
    "learning_rate": 0.3,
    "weight_decay": 0.0,
    "schedule": "constant",
    "max_grad_norm": 1.0,
    "warmup_epochs": 2.0,
    "dropout": 0.2,
    "label_smoothing": 0.1,
    "mix": "mixup",
    "mix_alpha": 1.0,
    "ema": 0.9,
    "teacher_precision": "bf16",
    "test_size": 10,
    "precision": "bf16",
    "seed": 1,
    "teacher": "elsewhere",
    "teacher_weights": "weights.pth",
    "knowledge": "stores/a",
    "teacher_network": "vgg_teacher",
    "teacher_width": 0.5,
    "teacher_taps": ["a"],
    "student_taps": ["b"],
    "loss": "fsp",
    "num_vectors": 2,
    "beta": 4.0,
    "gradient": "poster",
    "temperature": 2.0,
    "grid": 8,
    "nontarget_weight": 2.0,
    "clip": "none",
    "clip_interval": 5,
    "task_weight": 0.5,
    "transfer_weight": 0.5,
    "soft_target_weight": 0.5,
    "deterministic": True,
    "transfer_epochs": 1,
}
FREE = {
    "output": "moved",
    "device": "cpu",
    "capture": "off",
    "workers": 1,
    "memory_limit_gb": 1.0,
    "checkpoint_minutes": 5.0,
    "resume": True,
}


def config(**changes):
    return DistillConfig(**{"output": "runs/a", "teacher": "runs/t", **changes})


def test_yaml_says_every_field_in_order_and_comes_back():
    written = config(image_size=None, teacher_taps=["stage1", "stage2"], learning_rate=1e-5)
    stored = yaml.safe_load(to_yaml(written))
    assert list(stored) == [field.name for field in dataclasses.fields(DistillConfig)]
    assert DistillConfig(**stored) == written


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config()))
    return path


def test_every_field_is_tried_below():
    names = {field.name for field in dataclasses.fields(DistillConfig)}
    assert names == set(OTHER) | set(FREE)


def test_the_same_configuration_resumes(path):
    require_same(config(), path)
    require_same(config(**FREE), path)


@pytest.mark.parametrize("name", OTHER)
def test_another_value_is_named(path, name):
    with pytest.raises(RunError, match=rf"^{name}: .* as in .*resume with the same"):
        require_same(config(**{name: OTHER[name]}), path)


def test_what_an_earlier_version_did_not_write_is_as_by_default(path):
    stored = yaml.safe_load(path.read_text())
    later = ("classes", "test_split", "clip_interval", "weights", "teacher_weights")
    for name in later:
        del stored[name]
    path.write_text(yaml.safe_dump(stored))
    require_same(config(), path)
    for name in later:
        with pytest.raises(RunError, match=rf"^{name}: .* as in .*resume with the same"):
            require_same(config(**{name: OTHER[name]}), path)


def test_another_command(path):
    with pytest.raises(RunError, match=r"^teacher: "):
        require_same(TrainConfig(output="runs/a"), path)
    path.write_text(to_yaml(TrainConfig(output="runs/a")))
    with pytest.raises(RunError, match=r"^teacher: "):
        require_same(config(), path)


@pytest.mark.parametrize(
    "content",
    [b"", b"- a\n- b\n", b"text", b"a: [", b"\xff\xfe\x00", b"!!python/object/apply:os.getcwd []"],
)
def test_a_damaged_configuration(path, content):
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"config\.yaml: "):
        require_same(config(), path)


def test_a_missing_configuration(tmp_path):
    with pytest.raises(RunError, match=r"nothing\.yaml: .*FileNotFoundError"):
        require_same(config(), tmp_path / "nothing.yaml")


LAUGHS = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS + "data: digits\nclasses_every: 1\n", "an alias"),
        ("data: " + "[" * 30_000, "recursion"),
        ("data: digits\nclasses_every: 1\n" + "# \n" * 30_000, "more than 65,536 bytes"),
        ("data: !!python/object/apply:os.getcwd []\nclasses_every: 1\n", "constructor"),
        ("data: digits\nclasses_every: one\n", "classes_every: expected `int`, got `str`"),
        ("data: [digits]\nclasses_every: 1\n", "data: expected `str`, got `array`"),
        ('data: "\\ud800"\nclasses_every: 1\n', "data: expected a text"),
        (
            "data: digits\nclasses_every: 1\naugmentation: <script>\n",
            "augmentation: invalid enum value '<script>'",
        ),
        ("data: 2001-99-99\nclasses_every: 1\n", "month"),
        ("data: digits\n", "something else"),
    ],
)
def test_what_no_run_wrote_is_refused(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(RunError, match=message):
        stored_values(path)


def test_a_stored_configuration_is_read_back(path, tmp_path):
    assert read_config(path) == config()
    written = TrainConfig(output="runs/a", workers=2)
    (tmp_path / "train.yaml").write_text(to_yaml(written))
    assert read_config(tmp_path / "train.yaml") == written


def test_options_of_a_loss_that_is_registered_elsewhere_are_kept(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(DistillConfig(output="runs/a", loss="registered_elsewhere", grid=2)))
    assert read_config(path).grid == 2


def test_reading_a_configuration_imports_no_code_that_it_names(path, tmp_path, monkeypatch):
    (tmp_path / "my_losses.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)
    stored = {"data": "digits", "classes_every": 1, "loss": "my_losses:Loss", "beta": None}
    path.write_text(yaml.safe_dump(stored))
    assert read_config(path).loss == "my_losses:Loss"
