import pytest

from svdistill.common.errors import ArgumentError
from svdistill.config.training import DistillConfig, TrainConfig

BAD = [
    ("output", ""),
    ("network", "resnet"),
    ("network", ""),
    ("weights", "pretrained"),
    ("epochs", 0),
    ("epochs", 1.5),
    ("batch_size", 0),
    ("batch_size", True),
    ("classes_every", 0),
    ("seed", -1),
    ("width", 0.0),
    ("width", float("nan")),
    ("learning_rate", 0.0),
    ("learning_rate", float("inf")),
    ("weight_decay", -1e-4),
    ("weight_decay", float("nan")),
    ("max_grad_norm", 0.0),
    ("augmentation", "flip"),
    ("views", -1),
    ("views", 1.5),
    ("views_seed", -1),
    ("workers", -1),
    ("optimizer", "adam"),
    ("schedule", "cosin"),
    ("dropout", 1.0),
    ("dropout", -0.1),
    ("label_smoothing", 1.0),
    ("label_smoothing", -0.1),
    ("ema", 1.0),
    ("ema", float("nan")),
    ("mix", "cutout"),
    ("mix_alpha", 0.0),
    ("mix_alpha", 1.0),  # without mix
    ("warmup_epochs", 5.0),  # without cosine
    ("precision", "fp32"),
    ("device", "gpu"),
]
BAD_FOR_DISTILLATION = [
    ("teacher_weights", "weights.pth"),
    ("teacher_network", "resnet"),
    ("teacher", ""),
    ("transfer_epochs", -1),
    ("task_weight", 0.0),
    ("transfer_weight", -1.0),
    ("soft_target_weight", float("inf")),
    ("teacher_width", 0.0),
]


def config(**changes):
    return DistillConfig(**{"output": "runs/a", "teacher": "runs/t", **changes})


def test_defaults_are_good():
    config().check()
    TrainConfig(output="runs/a").check()


@pytest.mark.parametrize(
    "name", ["timm:resnet18", "torchvision:resnet18", "hf:folder", "my_nets:build", "object"]
)
def test_networks_of_every_kind_are_good(name):
    config(network=name).check()
    config(teacher=name).check()


def test_published_weights_are_those_of_a_library():
    config(network="timm:resnet18", weights="pretrained").check()
    config(network="vgg_student", weights="weights.pth").check()
    config(teacher="timm:resnet18", teacher_weights="weights.pth").check()
    for name in ("vgg_student", "my_nets:build", "object"):
        with pytest.raises(ArgumentError, match=r"^weights: .*timm:NAME"):
            config(network=name, weights="pretrained").check()


def test_only_the_seeds_networks_come_in_other_widths():
    config(network="vgg_student", width=0.5).check()
    with pytest.raises(ArgumentError, match=r"^width: expected 1 with a network that is none of"):
        config(network="timm:resnet18", width=0.5).check()


def test_a_misspelt_network_is_told_the_nearest():
    with pytest.raises(ArgumentError, match=r"^network: .*timm:NAME.*did you mean 'vgg_student'"):
        config(network="vgg_studnt").check()


@pytest.mark.parametrize(("name", "value"), BAD)
@pytest.mark.parametrize("kind", [TrainConfig, DistillConfig])
def test_values_that_no_run_can_have(kind, name, value):
    fields = {"output": "runs/a"} | ({"teacher": "runs/t"} if kind is DistillConfig else {})
    with pytest.raises(ArgumentError, match=rf"^{name}: expected .*got "):
        kind(**{**fields, name: value}).check()


@pytest.mark.parametrize(("name", "value"), BAD_FOR_DISTILLATION)
def test_values_that_no_distillation_can_have(name, value):
    with pytest.raises(ArgumentError, match=rf"^{name}: expected .*got "):
        config(**{name: value}).check()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("teacher", "runs/t"),
        ("teacher_weights", "weights.pth"),
        ("teacher_network", "vgg_teacher"),
        ("teacher_taps", ["stage1"]),
        ("teacher_precision", "bf16"),
        ("views", 4),
        ("views_seed", 0),
    ],
)
def test_what_a_store_says_is_not_said_again(name, value):
    DistillConfig(output="runs/a", knowledge="stores/a").check()
    with pytest.raises(ArgumentError, match=rf"^{name}: expected nothing .* leave out {name}"):
        DistillConfig(**{"output": "runs/a", "knowledge": "stores/a", name: value}).check()


def test_a_store_knows_no_mixed_images():
    message = r"^mix: expected nothing beside knowledge.*got 'cutmix'; .*--teacher instead"
    with pytest.raises(ArgumentError, match=message):
        DistillConfig(output="runs/a", knowledge="stores/a", mix="cutmix").check()


@pytest.mark.parametrize(
    ("given", "epochs", "expected"), [(None, 100, 5), (None, 20, 2), (7.5, 100, 7.5), (0.0, 10, 0)]
)
def test_a_warm_up_is_short_beside_the_training(given, epochs, expected):
    chosen = config(schedule="cosine", warmup_epochs=given, epochs=epochs)
    chosen.check()
    assert chosen.warmup(epochs) == expected
    assert config(epochs=epochs).warmup(epochs) == 0
    with pytest.raises(ArgumentError, match=r"^warmup_epochs: expected 0 to below 10"):
        config(schedule="cosine", warmup_epochs=10.0, epochs=10).check()


def test_only_a_teacher_teaches_without_labels():
    config(unlabelled="folder:x").check()
    with pytest.raises(ArgumentError, match=r"^unlabelled: expected nothing .*got 'rest'; "):
        TrainConfig(output="runs/a", unlabelled="rest").check()


@pytest.mark.parametrize(
    ("loss", "weights", "clip"),
    [
        ("svd", (1.0, 1.0, None), "amortised"),
        ("soft_target", (0.1, 0.9, None), "none"),
        ("position_gram+soft_target", (1.0, 1.0, 3.0), "amortised"),
        ("position_gram+dist", (1.0, 1.0, 1.0), "amortised"),
        ("lskd", (0.1, 1.0, None), "none"),
        ("dkd", (1.0, 1.0, None), "none"),
        ("svd+dist", (1.0, 1.0, 1.0), "amortised"),
        ("object:SoftTargetLoss", (0.1, 0.9, None), "none"),
        ("object:SVDLoss", (1.0, 1.0, None), "amortised"),
    ],
)
def test_what_is_left_empty_is_filled_by_the_loss(loss, weights, clip):
    filled = config(loss=loss).filled()
    names = ("task_weight", "transfer_weight", "soft_target_weight")
    assert tuple(getattr(filled, name) for name in names) == weights
    assert filled.clip == clip


def test_the_loss_by_default_relates_images_only_where_a_batch_is_whole(monkeypatch):
    assert config().loss == "position_gram+dist"
    in_parts = config(accumulate=2)
    in_parts.check()
    assert in_parts.loss == "position_gram+soft_target"
    assert config(loss="fsp", accumulate=2).loss == "fsp"
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert config().loss == "position_gram+soft_target"
    with pytest.raises(ArgumentError, match="relate no images"):
        config(loss="position_gram+dist").check()


def test_what_is_given_stays():
    given = config(loss="soft_target", task_weight=0.5, clip="norm", weight_decay=0.0)
    filled = given.filled()
    assert (filled.task_weight, filled.clip, filled.weight_decay) == (0.5, "norm", 0.0)
    assert set(given.left_empty()) == {"transfer_weight", "temperature", "learning_rate"}


def test_rates_are_filled_by_the_optimizer():
    rates = {
        name: (filled.learning_rate, filled.weight_decay)
        for name in ("sgd", "adamw")
        for filled in (TrainConfig(output="a", optimizer=name).filled(),)
    }
    assert rates == {"sgd": (0.03, 5e-4), "adamw": (1e-3, 1e-2)}
