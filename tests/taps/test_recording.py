import copy
import pickle

import pytest
import torch
from torch import nn

from svdistill.common.errors import ArgumentError
from svdistill.taps import FeatureTaps


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.act = nn.ReLU()

    def forward(self, maps):
        return maps + self.act(self.conv(maps))


class Classifier(nn.Module):
    """Stem, two blocks, a head; registers them in another order than they run."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 5)
        self.blocks = nn.ModuleList([Block(6), Block(6)])
        self.stem = nn.Conv2d(3, 6, 3, stride=2)
        self.unused = nn.Linear(1, 1)
        self.fail = False

    def forward(self, images):
        maps = self.stem(images)
        for block in self.blocks:
            maps = block(maps)
        if self.fail:
            raise RuntimeError("on the way")
        return self.head(maps.mean(dim=(2, 3)))


def images(batch=2):
    return torch.rand(batch, 3, 9, 9, generator=torch.Generator().manual_seed(0))


def hooks(model):
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )


def by_hand(model, path):
    seen = []
    handle = model.get_submodule(path).register_forward_hook(lambda *call: seen.append(call[2]))
    output = model(images())
    handle.remove()
    return output, seen[0]


@pytest.mark.parametrize("path", ["stem", "blocks.0", "blocks.1.conv", "blocks.0.act", "head"])
def test_records_what_the_module_put_out(path):
    model = Classifier().eval()
    output, feature = by_hand(model, path)
    recording = FeatureTaps(model, [path]).run(images())
    assert recording.output.equal(output)
    assert recording.features[0].equal(feature)


def test_features_come_in_the_order_asked_for():
    taps = FeatureTaps(Classifier(), ["head", "blocks.1", "stem"])
    shapes = [tuple(feature.shape) for feature in taps.run(images()).features]
    assert shapes == [(2, 5), (2, 6, 4, 4), (2, 6, 4, 4)]
    assert taps.paths == ("head", "blocks.1", "stem")


def test_no_taps_record_nothing():
    assert FeatureTaps(Classifier(), []).run(images()).features == ()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("path", ["layers.0", "layers.1.linear2", "layers.0.norm1"])
def test_records_tokens(training, path):
    """In eval mode torch has a fused path that runs no submodule; taps must not meet it."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).train(training)
    tokens = torch.rand(3, 7, 8)
    with torch.set_grad_enabled(training):
        recording = FeatureTaps(model, [path]).run(tokens)
    assert recording.features[0].shape == (3, 7, 8)
    torch.testing.assert_close(recording.output, model(tokens))


def test_several_inputs_are_passed_on():
    bilinear = nn.Sequential()
    bilinear.add_module("pair", nn.Bilinear(2, 3, 4))
    bilinear.forward = lambda left, right: bilinear.pair(left, right)
    left, right = torch.rand(5, 2), torch.rand(5, 3)
    recording = FeatureTaps(bilinear, ["pair"]).run(left, right)
    assert recording.features[0].equal(bilinear.pair(left, right))


def test_the_graph_is_kept():
    model = Classifier()
    FeatureTaps(model, ["blocks.0"]).run(images()).features[0].sum().backward()
    assert model.stem.weight.grad is not None
    assert model.head.weight.grad is None


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_runs_without_gradients(guard):
    model = Classifier().eval()
    with guard():
        feature = FeatureTaps(model, ["stem"]).run(images()).features[0]
        assert feature.equal(model.stem(images()))
    assert not feature.requires_grad


def test_hooks_live_only_while_it_runs():
    model = Classifier()
    taps = FeatureTaps(model, ["stem", "head"])
    assert hooks(model) == 0
    taps.run(images())
    assert hooks(model) == 0


def test_hooks_are_gone_after_an_exception_in_the_model():
    model = Classifier()
    model.fail = True
    with pytest.raises(RuntimeError, match="on the way"):
        FeatureTaps(model, ["stem", "head"]).run(images())
    assert hooks(model) == 0


def test_hooks_are_gone_after_an_error_at_a_tap():
    model = nn.Sequential(nn.Linear(3, 4), nn.GRU(4, 4))
    with pytest.raises(ArgumentError):
        FeatureTaps(model, ["0", "1"]).run(torch.rand(2, 3))
    assert hooks(model) == 0


def test_hooks_are_gone_where_a_module_went_missing():
    model = Classifier()
    taps = FeatureTaps(model, ["stem", "head"])
    del model.head
    with pytest.raises(AttributeError, match="head"):
        taps.run(images())
    assert hooks(model) == 0


def test_hooks_of_the_user_stay_and_still_run():
    model, calls = Classifier(), []
    model.stem.register_forward_hook(lambda *_: calls.append(1))
    FeatureTaps(model, ["stem"]).run(images())
    assert hooks(model) == 1
    assert calls == [1]


class TestToLastTap:
    @pytest.mark.parametrize("paths", [["stem"], ["blocks.0", "stem"], ["head"], ["blocks.1.act"]])
    def test_records_what_a_whole_run_records(self, paths):
        taps = FeatureTaps(Classifier().eval(), paths)
        found, expected = taps.run_to_last_tap(images()), taps.run(images()).features
        assert all(map(torch.equal, found, expected))
        assert hooks(taps.model) == 0

    def test_nothing_runs_behind_it(self):
        model = Classifier()
        model.fail = True  # behind the blocks
        FeatureTaps(model, ["blocks.1", "blocks.0"]).run_to_last_tap(images())
        with pytest.raises(RuntimeError, match="on the way"):
            FeatureTaps(model, ["blocks.1", "head"]).run_to_last_tap(images())
        assert hooks(model) == 0

    def test_a_model_that_catches_exceptions_is_left_too(self):
        class Catching(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.finished = nn.Conv2d(3, 4, 3), False

            def forward(self, images):
                try:
                    maps = self.conv(images)
                except Exception:
                    maps = images
                self.finished = True
                return maps

        model = Catching()
        assert FeatureTaps(model, ["conv"]).run_to_last_tap(images())[0].shape == (2, 4, 7, 7)
        assert not model.finished

    def test_what_ran_is_checked(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3))
        with pytest.raises(ArgumentError, match="overwritten in place"):
            FeatureTaps(model, ["0", "2"]).run_to_last_tap(images())
        with pytest.raises(ArgumentError, match="got 0 runs"):
            FeatureTaps(Classifier(), ["unused", "stem"]).run_to_last_tap(images())
        with pytest.raises(ArgumentError, match="got tuple"):
            FeatureTaps(nn.Sequential(nn.GRU(3, 4)), ["0"]).run_to_last_tap(torch.rand(2, 5, 3))


def test_an_earlier_recording_is_not_touched_by_a_later_run():
    model = Classifier().eval()
    taps = FeatureTaps(model, ["stem"])
    first = taps.run(images())
    kept = first.features[0].clone()
    taps.run(images() + 1)
    assert first.features[0].equal(kept)


def test_copies_and_pickles_of_the_model_carry_nothing():
    model = Classifier().eval()
    taps = FeatureTaps(model, ["stem", "blocks.1"])
    before = pickle.dumps(model)
    taps.run(images())
    assert pickle.dumps(model) == before
    copied = copy.deepcopy(model)
    taps.run(images())
    assert hooks(copied) == 0
    assert copied(images()).equal(model(images()))


def test_a_copy_of_the_taps_taps_the_copy_of_the_model():
    model = Classifier().eval()
    copied = copy.deepcopy(FeatureTaps(model, ["stem"]))
    nn.init.zeros_(copied.model.stem.weight)
    nn.init.zeros_(copied.model.stem.bias)
    assert copied.run(images()).features[0].count_nonzero() == 0
    assert FeatureTaps(model, ["stem"]).run(images()).features[0].count_nonzero() > 0


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        ("blocks.0.con", r"did you mean 'blocks\.0\.conv'"),
        ("Stem", "did you mean 'stem'"),
        ("blocks.2", r"'blocks\.[01]'"),
        ("q", r"choose from 'blocks', 'blocks\.0'"),
        ("", "choose from"),
    ],
)
def test_a_wrong_path_names_the_nearest(path, remedy):
    with pytest.raises(ArgumentError, match=rf"^taps: .*Classifier, got '{path}'; .*{remedy}"):
        FeatureTaps(Classifier(), ["stem", path])


def test_a_string_is_no_list_of_paths():
    with pytest.raises(ArgumentError, match=r"write \['stem'\]"):
        FeatureTaps(Classifier(), "stem")


def test_a_path_twice():
    with pytest.raises(ArgumentError, match="each module once"):
        FeatureTaps(Classifier(), ["stem", "head", "stem"])


def test_an_error_names_the_callers_argument():
    with pytest.raises(ArgumentError, match=r"^student_taps: .*did you mean 'stem'"):
        FeatureTaps(Classifier(), ["Stem"], "student_taps")


def test_a_module_that_runs_twice():
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    with pytest.raises(ArgumentError, match=r"tap '0': .*got 2 runs; tap a module around it"):
        FeatureTaps(model, ["0"]).run(torch.rand(2, 4))


def test_a_module_that_does_not_run():
    with pytest.raises(ArgumentError, match=r"tap 'unused': .*got 0 runs; tap one that runs"):
        FeatureTaps(Classifier(), ["stem", "unused"]).run(images())


def test_an_output_that_is_no_tensor():
    model = nn.Sequential(nn.GRU(3, 4))
    with pytest.raises(ArgumentError, match=r"tap '0': .*got tuple; tap a module inside it"):
        FeatureTaps(model, ["0"]).run(torch.rand(2, 5, 3))


@pytest.mark.parametrize("with_graph", [True, False])
def test_an_output_that_is_overwritten(with_graph):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    with torch.set_grad_enabled(with_graph):
        with pytest.raises(ArgumentError, match=r"tap '1': .*overwritten in place.*in-place ReLU"):
            FeatureTaps(model, ["1"]).run(images())
        recording = FeatureTaps(model, ["0", "2"]).run(images())
    assert recording.features[1].equal(recording.output)


def test_an_overwritten_view_of_an_output():
    class Slices(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, rows):
            features = self.linear(rows)
            features[:, :2].mul_(2)
            return features

    with pytest.raises(ArgumentError, match="overwritten"):
        FeatureTaps(Slices(), ["linear"]).run(torch.rand(2, 4))


class ChannelsLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 5)
        self.act = nn.ReLU(inplace=True)

    def forward(self, images):
        return self.act(self.linear(images.permute(0, 2, 3, 1)))


class TestChannelsLast:
    def test_maps_are_recorded_with_channels_first(self):
        model = ChannelsLast()
        taps = FeatureTaps(model, ["act:nhwc"])
        recording = taps.run(images())
        assert taps.paths == ("act:nhwc",)
        assert recording.features[0].equal(recording.output.permute(0, 3, 1, 2))
        assert taps.run_to_last_tap(images())[0].equal(recording.features[0])
        recording.features[0].sum().backward()
        assert model.linear.weight.grad is not None

    def test_the_same_rules_hold(self):
        with pytest.raises(ArgumentError, match=r"tap 'linear:nhwc': .*overwritten in place"):
            FeatureTaps(ChannelsLast(), ["linear:nhwc"]).run(images())
        with pytest.raises(ArgumentError, match="each module once"):
            FeatureTaps(ChannelsLast(), ["act", "act:nhwc"])
        with pytest.raises(ArgumentError, match=r"got 'acts:nhwc'; .*'act', 'linear'"):
            FeatureTaps(ChannelsLast(), ["acts:nhwc"])
        with pytest.raises(ArgumentError, match="choose from"):
            FeatureTaps(ChannelsLast(), [":nhwc"])

    def test_other_outputs_are_refused(self):
        with pytest.raises(ArgumentError, match=r"tap 'head:nhwc': .*got shape \(2, 5\)"):
            FeatureTaps(Classifier(), ["head:nhwc"]).run(images())


class TestCompiledModels:
    def test_that_is_only_run_through_its_taps(self):
        model = Classifier().eval()
        taps = FeatureTaps(torch.compile(model, backend="eager"), ["_orig_mod.blocks.0"])
        for scale in (1, 2):
            expected = FeatureTaps(model, ["blocks.0"]).run(scale * images())
            recording = taps.run(scale * images())
            torch.testing.assert_close(recording.features[0], expected.features[0])
            torch.testing.assert_close(recording.output, expected.output)

    def test_that_ran_before_says_what_to_do(self):
        compiled = torch.compile(Classifier().eval(), backend="eager")
        compiled(images())
        with pytest.raises(ArgumentError, match="of a compiled model, tap the original"):
            FeatureTaps(compiled, ["_orig_mod.stem"]).run(images())
        assert FeatureTaps(compiled._orig_mod, ["stem"]).run(images()).features[0].shape[1] == 6

    @pytest.fixture(autouse=True)
    def _fresh(self):
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()
