import sys
from dataclasses import replace

import pytest
from safetensors.torch import load_file, save_file

from saved_networks import CARD, logits, network
from svdistill.common.errors import ArgumentError, RunError
from svdistill.config import DistillConfig
from svdistill.runs.weights import save_weights
from svdistill.training.teacher import data_options, load_teacher

TEN = tuple("0123456789")


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "student.safetensors"
    save_weights(path, network(), CARD)
    return path


def count_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


class TestLoadTeacher:
    def test_from_a_run_directory_and_from_its_files(self, path):
        for spec in (str(path), str(path.parent)):
            assert logits(load_teacher(spec, CARD.class_names).network.eval()).equal(
                logits(network())
            )

    def test_its_card_goes_before_the_name_given(self, path):
        teacher = load_teacher(str(path), CARD.class_names, network="vgg_teacher", width=1.0)
        assert count_parameters(teacher.network) == count_parameters(network())

    def test_from_another_tools_file_with_a_name(self, path):
        save_file(load_file(path), path)
        teacher = load_teacher(str(path), CARD.class_names, network="mobilenet_student", width=0.05)
        assert logits(teacher.network.eval()).equal(logits(network()))

    def test_from_another_tools_file_without_a_name(self, path):
        save_file(load_file(path), path)
        with pytest.raises(ArgumentError, match=r"^teacher_network: .*student\.safetensors"):
            load_teacher(str(path), CARD.class_names)

    @pytest.mark.parametrize(("name", "width"), [("mobilenet_student", 1.0), ("vgg_teacher", 0.05)])
    def test_from_another_tools_file_with_a_wrong_name(self, path, name, width):
        save_file(load_file(path), path)
        with pytest.raises(RunError, match=r"check the network's name and its width"):
            load_teacher(str(path), CARD.class_names, network=name, width=width)

    def test_of_other_classes(self, path):
        teacher = load_teacher(str(path), TEN)
        assert teacher.other_classes == "3 of them"
        assert logits(teacher.network.eval()).equal(logits(network()))
        turned = load_teacher(str(path), CARD.class_names[::-1])
        assert turned.other_classes == "another order of the names"

    def test_of_other_classes_in_another_tools_file(self, path):
        save_file(load_file(path), path)
        teacher = load_teacher(str(path), TEN, network="mobilenet_student", width=0.05)
        assert teacher.other_classes == "not 10 of them"
        assert not logits(teacher.network.eval()).any()

    def test_of_ones_own_code_is_named_by_its_user(self, tmp_path, monkeypatch):
        (tmp_path / "teachers_by_name.py").write_text(
            "import svdistill\ndef build():\n"
            "    return svdistill.build_network('mobilenet_student', 3, 0.05)\n"
        )
        monkeypatch.chdir(tmp_path)
        path = tmp_path / "own.safetensors"
        save_weights(path, network(), replace(CARD, network="teachers_by_name:build"))
        with pytest.raises(
            RunError, match=r"'teachers_by_name:build', which means code of your own"
        ):
            load_teacher(str(path), CARD.class_names)
        assert "teachers_by_name" not in sys.modules
        teacher = load_teacher(str(path), CARD.class_names, network="teachers_by_name:build")
        assert logits(teacher.network.eval()).equal(logits(network()))
        del sys.modules["teachers_by_name"]

    def test_from_code(self, tmp_path, monkeypatch):
        (tmp_path / "teacher_code.py").write_text(
            "from torch import nn\ndef build(num_classes):\n    return nn.Linear(2, num_classes)\n"
        )
        monkeypatch.chdir(tmp_path)
        assert load_teacher("teacher_code:build", TEN).network.out_features == 10
        del sys.modules["teacher_code"]

    @pytest.mark.parametrize("spec", ["runs/absent", "absent.safetensors", "vgg_teacher"])
    def test_from_nowhere(self, spec):
        with pytest.raises(ArgumentError, match=rf"^teacher: .*'{spec}', which does not exist"):
            load_teacher(spec, TEN)

    def test_from_an_empty_directory(self, tmp_path):
        with pytest.raises(RunError, match=r"student\.safetensors"):
            load_teacher(str(tmp_path), TEN)


def test_the_hint_to_retrain_repeats_all_options_that_name_the_data():
    config = DistillConfig(
        output="r",
        data="folder:my images",
        classes_every=2,
        classes="5@0",
        label_column="kind",
        image_column="photo",
        train_split="fit",
        test_split="cut",
    )
    assert data_options(config) == (
        "--data 'folder:my images' --classes_every 2 --classes 5@0 --label_column kind "
        "--image_column photo --train_split fit --test_split cut"
    )
