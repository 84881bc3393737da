import copy
import pickle

import pytest
import torch
from torch import nn

from svdistill.common.errors import ArgumentError
from svdistill.distillation.adapters import Adapters, adapters_or_needed
from svdistill.taps import PairedTap, PairedTaps, Stage

CHANNELS = [6, 8, 4], [6, 20, 3]


def features(batch=2, dtype=torch.float32):
    """A map, tokens and vectors."""
    shapes = (batch, 6, 4, 4), (batch, 17, 8), (batch, 4)
    return tuple(torch.rand(shape).to(dtype).requires_grad_() for shape in shapes)


def test_one_matrix_serves_every_position_of_every_kind_of_feature():
    adapters = Adapters([5], [7])
    (matrix,) = adapters.parameters()
    maps = torch.rand(2, 5, 3, 4)
    by_hand = torch.einsum("ts,bshw->bthw", matrix, maps)
    for feature, expected in (
        (maps, by_hand),
        (maps.flatten(2).mT, by_hand.flatten(2).mT),
        (maps[:, :, 0, 0], by_hand[:, :, 0, 0]),
    ):
        (adapted,) = adapters([feature])
        torch.testing.assert_close(adapted, expected)


def test_a_tap_of_equal_channels_passes_as_it_is():
    adapters, given = Adapters(*CHANNELS), features()
    adapted = adapters(given)
    assert isinstance(adapted, tuple)
    assert adapted[0] is given[0]
    assert [tuple(weight.shape) for weight in adapters.parameters()] == [(20, 8), (3, 4)]
    assert [tuple(feature.shape) for feature in adapted] == [(2, 6, 4, 4), (2, 17, 20), (2, 3)]


def test_starts_as_an_isometry_or_a_projection():
    wider, narrower = Adapters([8], [20]).projections[0], Adapters([20], [8]).projections[0]
    torch.testing.assert_close(wider.weight.T @ wider.weight, torch.eye(8))
    torch.testing.assert_close(narrower.weight @ narrower.weight.T, torch.eye(8))
    tokens = torch.rand(2, 17, 8)
    torch.testing.assert_close(
        torch.linalg.svdvals(wider(tokens))[:, :8], torch.linalg.svdvals(tokens)
    )


def test_is_drawn_from_torchs_generator():
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append(Adapters(*CHANNELS).state_dict())
    assert all(drawn[0][name].equal(drawn[1][name]) for name in drawn[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_other_precisions(dtype):
    """Half comes out in the matrix's own dtype, which the loss would compute in anyway."""
    adapters, given = Adapters(*CHANNELS), features(dtype=dtype)
    adapted = adapters(given)
    wide = torch.promote_types(dtype, torch.float32)
    assert [feature.dtype for feature in adapted] == [dtype, wide, wide]
    sum(feature.double().sum() for feature in adapted).backward()
    assert all(feature.grad.dtype == dtype for feature in given)
    assert all(weight.grad.dtype == torch.float32 for weight in adapters.parameters())


def test_autocast():
    adapters = Adapters([6, 8], [20, 20])
    given = features()[:2]
    expected = adapters(given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        adapted = adapters(given)
    for found, exact in zip(adapted, expected, strict=True):
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), exact, rtol=0.02, atol=0.02)


def test_gradcheck():
    adapters = Adapters(*CHANNELS).double()
    inputs = (*features(dtype=torch.float64), *adapters.parameters())
    assert torch.autograd.gradcheck(lambda *tensors: adapters(tensors[:3]), inputs)


def test_copies_and_pickles():
    adapters, given = Adapters(*CHANNELS), features()
    for other in (copy.deepcopy(adapters), pickle.loads(pickle.dumps(adapters))):
        for found, expected in zip(other(given), adapters(given), strict=True):
            assert found.equal(expected)


def test_prints_its_channels():
    assert "student_channels=(6, 8, 4), teacher_channels=(6, 20, 3)" in str(Adapters(*CHANNELS))


class TestForPairedTaps:
    def pair(self, *rows):
        pairs = (
            PairedTap(Stage(path, teacher), Stage(path, student), "")
            for path, (student, teacher) in zip("abc", rows, strict=False)
        )
        return PairedTaps(tuple(pairs), (), ())

    def test_where_channels_differ(self):
        taps = self.pair(((6, 4, 4), (6, 8, 8)), ((5, 4, 4), (17, 8)), ((17, 9), (3, 4, 4)))
        adapters = adapters_or_needed(None, taps, 3, needed=True)
        assert adapters.student_channels == (6, 5, 9)
        assert adapters.teacher_channels == (6, 8, 3)

    def test_none_where_all_agree(self):
        taps = self.pair(((6, 4, 4), (6, 8, 8)), ((17, 5), (5, 4, 4)))
        assert adapters_or_needed(None, taps, 2, needed=True) is None


@pytest.mark.parametrize(
    ("student", "teacher", "argument"),
    [
        ([6, 8], [6], "teacher_channels"),
        ([6, 0], [6, 8], "student_channels"),
        ([6, 8], [6, 2.5], "teacher_channels"),
    ],
)
def test_refuses_channels_that_are_none(student, teacher, argument):
    with pytest.raises(ArgumentError, match=f"^{argument}: expected"):
        Adapters(student, teacher)


@pytest.mark.parametrize(
    "given",
    [
        features()[:2],
        features()[::-1],
        [*features()[:2], torch.rand(2, 4, 3, 3).mT.transpose(1, 3)],
    ],
    ids=["too few", "in another order", "of other channels"],
)
def test_refuses_features_of_other_channels(given):
    with pytest.raises(ArgumentError, match=r"^adapters: .*got ones for \[6, 8, 4\]"):
        Adapters(*CHANNELS)(given)


def test_is_a_module_for_an_optimizer():
    adapters = Adapters(*CHANNELS)
    assert isinstance(adapters, nn.Module)
    assert sorted(adapters.state_dict()) == ["projections.1.weight", "projections.2.weight"]


def test_a_matrix_serves_maps_of_three_dimensions():
    adapters = Adapters([5], [7])
    (matrix,) = adapters.parameters()
    maps = torch.rand(2, 5, 3, 4, 2)
    (adapted,) = adapters([maps])
    torch.testing.assert_close(adapted, torch.einsum("ts,bsdhw->btdhw", matrix, maps))
