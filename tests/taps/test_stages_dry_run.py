import copy

import pytest
import torch
from torch import Tensor, nn

from svdistill.common.errors import ArgumentError
from svdistill.taps.stages import ModuleOutput, dry_run


def images(batch: int = 4) -> Tensor:
    return torch.rand(batch, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def outputs(network: nn.Module, batch: int = 4) -> dict[str, ModuleOutput]:
    return {output.path: output for output in dry_run("teacher", network, images(batch))}


class Odd(nn.Module):
    """A stem that is overwritten, a shared layer, a tuple, a vector, and one that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.shared = nn.Conv2d(4, 4, 3, padding=1)
        self.scan = nn.GRU(4, 5, batch_first=True)
        self.unused = nn.Linear(1, 1)
        self.drop = nn.Dropout()
        self.head = nn.Linear(5, 2)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.shared(self.shared(self.stem(images).relu_()))
        tokens, _ = self.scan(maps.flatten(2).mT)
        return self.head(self.drop(tokens.mean(1)))


def test_what_can_be_tapped_has_a_shape() -> None:
    found = outputs(Odd())
    shapes = {path: output.shape for path, output in found.items()}
    assert shapes == {"stem": None, "shared": None, "scan": None, "drop": (5,), "head": (2,)}


def test_the_order_and_the_depth_are_those_of_running() -> None:
    class Reversed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.back = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3))
            self.front = nn.Conv2d(3, 4, 3)

        def forward(self, images: Tensor) -> Tensor:
            return self.back(self.front(images))

    found = dry_run("teacher", Reversed(), images())
    assert [(output.path, output.layers_run) for output in found] == [
        ("front", 1),
        ("back.0", 1),
        ("back.1", 2),
        ("back", 2),
    ]


def test_passing_on_is_told_from_holding_and_from_writing() -> None:
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3)), nn.ReLU(inplace=True), nn.Dropout(), nn.Identity()
    )
    passes_on = {path: output.passes_on for path, output in outputs(model).items()}
    assert passes_on == {"0.0": False, "0": False, "1": False, "2": True, "3": True}


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_any_batch_does(batch: int) -> None:
    assert outputs(nn.Sequential(nn.Conv2d(3, 4, 3)), batch)["0"].shape == (4, 6, 6)


def test_what_is_not_per_image_cannot_be_tapped() -> None:
    class Windows(nn.Module):
        """[B windows, T, D], as attention within windows has them; and sequence before batch."""

        def __init__(self) -> None:
            super().__init__()
            self.windows, self.sequence = nn.Linear(3, 4), nn.Linear(3, 4)

        def forward(self, images: Tensor) -> Tensor:
            tokens = images.flatten(2).mT
            self.windows(tokens.reshape(-1, 16, 3))
            return self.sequence(tokens.transpose(0, 1))

    found = outputs(Windows())
    assert found["windows"].shape is None
    assert found["sequence"].shape is None


def test_the_network_comes_back_as_it_was() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, images: Tensor) -> Tensor:
            return self.norm(self.conv(images)) + torch.rand(1)

    model = nn.Sequential(Noisy(), nn.Dropout(), nn.Flatten())
    model[1].eval()
    model[0].conv.weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    generator = torch.get_rng_state()
    dry_run("teacher", model, images())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.get_rng_state().equal(generator)
    assert not any(module._forward_hooks for module in model.modules())
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]
    assert all(p.grad is None for p in model.parameters())


def test_it_runs_at_rest_whatever_the_caller_does() -> None:
    class Sees(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append((self.training, torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
            return images

    seen: list[tuple[bool, bool, bool]] = []
    with torch.inference_mode():
        dry_run("teacher", Sees(), images())
    dry_run("teacher", Sees(), images())
    assert seen == [(False, False, False)] * 2


def test_merging_weights_in_eval_is_not_set_off() -> None:
    class Merges(nn.Conv2d):
        def train(self, mode: bool = True) -> nn.Module:
            raise AssertionError("merged")

    model = nn.Sequential()
    model.append(Merges(3, 4, 3))
    assert outputs(model)["0"].shape == (4, 6, 6)


def test_a_network_without_weights_in_memory() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3)).to("meta")
    assert outputs(model)["0"].shape == (4, 6, 6)


def test_a_network_that_fails_is_named_with_its_message() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(7, 2)).train()
    with pytest.raises(
        ArgumentError,
        match=r"^student: expected .* images \[2, 3, 8, 8\], got RuntimeError: mat1 and mat2",
    ):
        dry_run("student", model, images())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("example", "got"),
    [(torch.rand(3, 8, 8), r"shape \[3, 8, 8\]"), ([1], "list"), (torch.rand(0, 3, 8, 8), "0, 3")],
)
def test_what_is_no_batch_of_images(example: object, got: str) -> None:
    with pytest.raises(ArgumentError, match=rf"^example: expected images .* got .*{got}"):
        dry_run("teacher", Odd(), example)
