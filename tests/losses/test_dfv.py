"""`dfv_distance` against the definition: equal in value and gradient, at linear cost."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from references import explicit_dfv, relative_error
from svdistill.common.errors import ArgumentError
from svdistill.losses import dfv, dfv_distance

BETAS = [0.05, 0.1, 0.19, 0.21, 0.5, 1.0, 8.0, 100.0, 1000.0]


def unit_columns(batch, channels, k, seed, dtype=torch.float64):
    """Orthonormal columns with weights that fall, as the loss makes them."""
    generator = torch.Generator().manual_seed(seed)
    columns = torch.randn(batch, channels, k, generator=generator, dtype=torch.float64)
    columns = columns / columns.norm(dim=1, keepdim=True)
    return (columns * torch.linspace(1, 0.3, k, dtype=torch.float64)).to(dtype)


def four_sides(batch, front, back, k, dtype=torch.float64, seed=0):
    """Student front and back, teacher front and back."""
    sizes = (front, back, front, back)
    return [unit_columns(batch, size, k, seed + i, dtype) for i, size in enumerate(sizes)]


def explicit_distance(sides, beta):
    """By numpy, image by image, from the definition."""
    student_front, student_back, teacher_front, teacher_back = (
        side.double().numpy() for side in sides
    )
    total = 0.0
    for image in range(len(student_front)):
        student = explicit_dfv(student_front[image], student_back[image], beta)
        teacher = explicit_dfv(teacher_front[image], teacher_back[image], beta)
        total += ((student - teacher) ** 2).sum()
    return total


def gradients(distance, sides, beta):
    sides = [side.clone().requires_grad_() for side in sides]
    return torch.autograd.grad(distance(*sides, beta), sides)


def definition(student_front, student_back, teacher_front, teacher_back, beta):
    difference = dfv(student_front, student_back, beta) - dfv(teacher_front, teacher_back, beta)
    return difference.square().sum()


def test_dfv_is_its_definition():
    front, back = unit_columns(2, 5, 3, seed=0), unit_columns(2, 4, 3, seed=1)
    features = dfv(front, back, beta=2.0)
    assert features.shape == (2, 5, 4, 3)
    for image in range(2):
        expected = explicit_dfv(front[image].numpy(), back[image].numpy(), 2.0)
        np.testing.assert_allclose(features[image], expected, rtol=1e-14)


def test_dfv_of_known_values():
    front, back = torch.tensor([[[0.0], [1.0]]]), torch.tensor([[[0.0], [-1.0]]])
    expected = torch.tensor([[1.0, -1 / 8.0], [-1 / 8.0, -4 / 8.0]])
    expected[0, 0] = 0.0
    torch.testing.assert_close(dfv(front, back)[0, :, :, 0], expected.exp())


@settings(deadline=None, max_examples=80, derandomize=True)
@given(
    batch=st.integers(1, 3),
    front=st.integers(1, 9),
    back=st.integers(1, 9),
    k=st.integers(1, 3),
    beta=st.sampled_from(BETAS) | st.floats(0.05, 1000.0),
    seed=st.integers(0, 2**16),
)
def test_distance_equals_the_definition(batch, front, back, k, beta, seed):
    sides = four_sides(batch, front, back, k, seed=seed)
    expected = explicit_distance(sides, beta)
    assert float(dfv_distance(*sides, beta)) == pytest.approx(expected, rel=1e-6, abs=1e-20)
    actual = gradients(dfv_distance, sides, beta)
    for side, reference in zip(actual, gradients(definition, sides, beta), strict=True):
        torch.testing.assert_close(side, reference, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("beta", BETAS)
def test_distance_of_extreme_entries(beta):
    """The series is worst at the ends of [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    sides = [
        torch.randint(-1, 2, (1, size, 2), generator=generator).double() for size in (6, 5, 6, 5)
    ]
    expected = explicit_distance(sides, beta)
    assert float(dfv_distance(*sides, beta)) == pytest.approx(expected, rel=1e-10)
    single = [side.float() for side in sides]
    assert float(dfv_distance(*single, beta)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("beta", BETAS)
def test_float32_loses_little(beta):
    sides = four_sides(4, 64, 128, 2, torch.float32)
    assert float(dfv_distance(*sides, beta)) == pytest.approx(
        explicit_distance(sides, beta), rel=1e-5
    )
    doubles = [side.double() for side in sides]
    actual = gradients(dfv_distance, sides, beta)
    for side, reference in zip(actual, gradients(definition, doubles, beta), strict=True):
        assert relative_error(side, reference) < 2e-5


def test_close_pairs_do_not_cancel():
    """The definition in float32 loses a distance of this size in the 1 that all entries share."""
    generator = torch.Generator().manual_seed(1)
    teacher = [unit_columns(2, 256, 1, seed=i, dtype=torch.float32) for i in range(2)]
    student = [
        side + 1e-4 * torch.randn(side.shape, generator=generator) / side.shape[1] ** 0.5
        for side in teacher
    ]
    expected = explicit_distance([*student, *teacher], 8.0)
    assert float(dfv_distance(*student, *teacher)) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("beta", [0.1, 1.0, 8.0])
def test_gradcheck(beta):
    sides = [side.requires_grad_() for side in four_sides(2, 4, 3, 2)]
    assert torch.autograd.gradcheck(lambda *s: dfv_distance(*s, beta), sides, fast_mode=False)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distance_of_equals_is_zero_and_never_negative(dtype, beta):
    front, back = unit_columns(3, 40, 2, 0, dtype), unit_columns(3, 30, 2, 1, dtype)
    assert float(dfv_distance(front, back, front, back, beta)) == 0.0
    for size in (1e-2, 1e-4, 1e-6, 1e-8):
        moved = front + size * unit_columns(3, 40, 2, 2, dtype)
        assert float(dfv_distance(moved, back, front, back, beta)) >= 0.0


class LargestTensor(TorchDispatchMode):
    """Records the size of the largest tensor that any operation creates."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            # A view that only repeats entries takes no memory.
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // 4)
        return out


def largest_tensor(front, back):
    sides = [side.requires_grad_() for side in four_sides(2, front, back, 1, torch.float32)]
    with LargestTensor() as largest:
        dfv_distance(*sides).backward()
    return largest.elements


def test_no_tensor_of_the_product_of_the_channels():
    assert largest_tensor(512, 1024) < 512 * 1024 / 4
    assert largest_tensor(1024, 2048) <= 2 * largest_tensor(512, 1024)  # linear, not quadratic


def test_the_recorder_sees_the_definition():
    front, back = unit_columns(1, 50, 1, 0, torch.float32), unit_columns(1, 60, 1, 1, torch.float32)
    with LargestTensor() as largest:
        dfv(front, back)
    assert largest.elements == 50 * 60


BAD_SIDES = {
    "front of two dimensions": [(4, 1), (2, 3, 1), (4, 1), (2, 3, 1)],
    "batches differ": [(2, 4, 1), (3, 3, 1), (2, 4, 1), (3, 3, 1)],
    "vectors differ": [(2, 4, 1), (2, 3, 2), (2, 4, 1), (2, 3, 2)],
    "channels differ from the teacher's": [(2, 4, 1), (2, 3, 1), (2, 5, 1), (2, 3, 1)],
}


@pytest.mark.parametrize("shapes", BAD_SIDES.values(), ids=BAD_SIDES.keys())
def test_shapes_that_do_not_fit_are_refused(shapes):
    with pytest.raises(ArgumentError, match="expected"):
        dfv_distance(*(torch.rand(shape) for shape in shapes))


@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan"), float("inf")])
def test_beta_must_be_positive(beta):
    sides = four_sides(1, 2, 2, 1)
    with pytest.raises(ArgumentError, match=r"^beta: expected"):
        dfv_distance(*sides, beta)
    with pytest.raises(ArgumentError, match=r"^beta: expected"):
        dfv(sides[0], sides[1], beta)
