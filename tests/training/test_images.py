import pytest
from safetensors.torch import save_file

from picture_files import in_turn, noise, write_folder
from saved_networks import CARD, network
from svdistill.common.errors import ArgumentError, DataError, RunError
from svdistill.data import load_images
from svdistill.data.image_files import EncodedPictures
from svdistill.networks import InputSpec
from svdistill.runs.weights import save_weights
from svdistill.training import distill, train
from svdistill.training.images import run_images
from tiny_runs import Watching, distill_config, train_config

ZOO = InputSpec(24, (0.5, 0.4, 0.3), (0.2, 0.2, 0.3))


@pytest.fixture(autouse=True)
def zoo(monkeypatch):
    """A library whose every network knows the same images."""
    monkeypatch.setattr(
        "svdistill.training.images.input_spec", lambda name: ZOO if "timm:" in name else None
    )


@pytest.fixture
def run(tmp_path):
    """A teacher's, of images of 16x16."""
    (tmp_path / "teacher").mkdir()
    save_weights(tmp_path / "teacher" / "student.safetensors", network(), CARD)
    return tmp_path / "teacher"


def chosen(config, given=None):
    """Size, mean and standard deviation of a run's images, and what is said of them."""
    watching = Watching()
    data = run_images(config, watching, given)
    (_, counted), (_, said) = watching.told
    assert counted.startswith(f"{config.data}: {len(data.train):,} training images, ")
    return data.image_shape[-1], data.mean, data.std, said


DIGITS = load_images("digits", train_size=200)
OWN = (DIGITS.mean, DIGITS.std)


def test_of_the_seeds_networks_the_datas_own():
    assert chosen(train_config("r")) == (
        *(16, *OWN),
        "images 16x16, mean 0.304 0.304 0.304, std 0.318 0.318 0.318 (the data's own)",
    )


def test_a_size_that_is_asked_for_goes_first(run):
    size, mean, std, said = chosen(distill_config("r", run, image_size=8))
    assert (size, mean, std) == (8, CARD.mean, CARD.std)
    assert said == (
        f"images 8x8 (as asked for), mean 0.100 0.333 0.300, std 0.200 0.300 0.400 ({run}'s)"
    )


def test_a_teachers_run_goes_before_what_the_student_started_from(run):
    config = distill_config("r", run, network="timm:any", weights="pretrained")
    assert chosen(config)[:3] == (CARD.image_size, CARD.mean, CARD.std)


def test_a_librarys_teacher_was_trained_on_its_librarys_images():
    for changes in ({}, {"teacher_weights": "pretrained"}, {"teacher_weights": "weights.pth"}):
        size, mean, std, said = chosen(distill_config("r", "timm:any", **changes))
        assert (size, mean, std) == (ZOO.image_size, ZOO.mean, ZOO.std)
        assert said.endswith("(timm:any's own)")


def test_a_teacher_of_other_weights_was_trained_on_theirs(run):
    weights = str(run / "student.safetensors")
    config = distill_config("r", "timm:any", teacher_weights=weights)
    assert chosen(config)[:3] == (CARD.image_size, CARD.mean, CARD.std)


def test_a_teachers_file_that_says_nothing_is_of_its_network(tmp_path):
    save_file(network().state_dict(), tmp_path / "plain.safetensors")
    config = distill_config("r", tmp_path / "plain.safetensors", teacher_network="timm:any")
    assert chosen(config)[:3] == (ZOO.image_size, ZOO.mean, ZOO.std)
    config.teacher_network = "vgg_teacher"
    assert chosen(config)[:3] == (16, *OWN)


def test_a_network_that_starts_from_weights_sees_what_they_know(run, tmp_path):
    for weights in ("pretrained", "weights.pth"):
        config = train_config("r", network="timm:any", weights=weights)
        assert chosen(config)[:3] == (ZOO.image_size, ZOO.mean, ZOO.std)
    for weights in (run, run / "student.safetensors"):
        config = train_config("r", network="timm:any", weights=str(weights))
        assert chosen(config)[:3] == (CARD.image_size, CARD.mean, CARD.std)
    save_file(network().state_dict(), tmp_path / "plain.safetensors")
    config = train_config("r", weights=str(tmp_path / "plain.safetensors"))
    assert chosen(config)[:3] == (16, *OWN)


def test_from_random_weights_a_librarys_network_sees_the_datas_own():
    assert chosen(train_config("r", network="timm:any"))[:3] == (16, *OWN)
    assert chosen(distill_config("r", "my:code", network="timm:any"))[:3] == (16, *OWN)


def test_where_sizes_differ_a_librarys_network_says_its_own(monkeypatch):
    asked = []

    def load(spec, image_size=None, **options):
        asked.append((image_size, options["fallback_size"]))
        if options["fallback_size"] is None:
            raise DataError("x.png", expected="32x32", got="9x9", remedy="give image_size")
        return load_images("digits", image_size=options["fallback_size"], train_size=200)

    monkeypatch.setattr("svdistill.training.images.load_images", load)
    size, _, _, said = chosen(train_config("r", network="timm:any"))
    assert asked == [(None, 24)]
    assert size == 24
    assert said.startswith("images 24x24 (timm:any's own), mean ")
    assert said.endswith("(the data's own)")
    with pytest.raises(DataError, match="give image_size"):
        run_images(train_config("r"), Watching())


def test_images_that_are_given_keep_their_size(run):
    given = load_images("digits", image_size=8)
    size, mean, std, said = chosen(distill_config("r", run, train_size=None), given)
    assert (size, mean, std) == (8, CARD.mean, CARD.std)
    assert said.startswith("images 8x8 (as given), mean 0.100")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("image_size", 8), ("classes_every", 2), ("train_size", 9), ("unlabelled", "rest")],
        *[("label_column", "a"), ("image_column", "a"), ("train_split", "a"), ("test_split", "a")],
    ],
)
def test_options_without_effect_on_images_that_are_given(run, name, value):
    config = distill_config("r", run, **{"train_size": None, name: value})
    with pytest.raises(ArgumentError, match=rf"^{name}: expected nothing beside images"):
        run_images(config, Watching(), load_images("digits"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Images that nobody may decode."""

    def refuse(pictures, rows, each=None):
        pytest.fail("images were decoded")

    write_folder(tmp_path / "photos", noise(15), in_turn(15) % 2)
    monkeypatch.setattr(EncodedPictures, "read", refuse)
    return f"folder:{tmp_path / 'photos'}"


def test_a_teacher_of_other_classes_is_refused_before_images_are_decoded(run, tmp_path, folder):
    config = distill_config(tmp_path / "run", run, data=folder, loss="svd+soft_target")
    config.train_size = None
    said = r"teacher: expected one of the data's 2 classes, since the loss svd\+soft_target reads"
    with pytest.raises(ArgumentError, match=said):
        distill(config)


def test_a_finished_output_is_refused_before_images_are_decoded(teacher_run, folder):
    with pytest.raises(RunError, match="got a finished run"):
        train(train_config(teacher_run, data=folder))
    with pytest.raises(RunError, match="got a finished run"):
        distill(distill_config(teacher_run, teacher_run, data=folder))


def test_each_decoded_image_is_told_and_the_test_images_are_capped(tmp_path):
    write_folder(tmp_path / "photos", noise(15), in_turn(15) % 2)
    told = []
    watching = Watching()
    watching.reading = lambda number, total: told.append((number, total))
    config = train_config(
        tmp_path / "run", data=f"folder:{tmp_path / 'photos'}", train_size=None, test_size=2
    )
    data = run_images(config, watching)
    assert len(data.test) == 2
    total = len(data.train) + len(data.test)
    assert told == [(number, total) for number in range(1, total + 1)]
