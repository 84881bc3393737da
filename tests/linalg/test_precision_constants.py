"""Constants are ordinary tensors, whatever asked for them first."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from svdistill.linalg.precision import constant


def test_a_fake_tensor_is_not_kept():
    with FakeTensorMode():
        assert type(constant("start", (8, 51), torch.empty(1))) is not torch.Tensor
    real = constant("start", (8, 51), torch.empty(1))
    assert type(real) is torch.Tensor
    assert real is constant("start", (8, 51), torch.empty(1))


def test_neither_is_what_inference_or_a_transform_made():
    with torch.inference_mode():
        assert not constant("start", (8, 52), torch.empty(1)).is_inference()
    torch.func.grad(lambda x: (x * constant("start", (8, 53), x)).sum())(torch.ones(8, 53))
    assert not torch._C._functorch.is_functorch_wrapped_tensor(
        constant("start", (8, 53), torch.empty(1))
    )


def test_the_default_device_changes_nothing():
    expected = constant("start", (8, 54), torch.empty(1, dtype=torch.float64)).float()
    with torch.device("meta"):
        made = constant("start", (8, 54), torch.empty(1, device="cpu"))
    assert torch.equal(made, expected)
