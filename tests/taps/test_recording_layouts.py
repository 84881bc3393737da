"""Where the channels are: of sequences, tokens and videos, declared or told by the module."""

import pytest
import torch
from torch import nn

from svdistill.common.errors import ArgumentError
from svdistill.distillation.distiller import Distiller
from svdistill.losses import PositionSVDLoss, SVDLoss
from svdistill.taps import FeatureTaps


def sequences(channels=8):
    block = nn.Sequential(nn.Conv1d(channels, channels, 3), nn.BatchNorm1d(channels), nn.ReLU())
    return nn.Sequential(nn.Conv1d(3, channels, 3), nn.ReLU(), block, nn.AdaptiveAvgPool1d(5))


def recorded(model, path, *shape):
    return FeatureTaps(model, [path]).run(torch.rand(shape)).features[0]


@pytest.mark.parametrize(("path", "length"), [("0", 18), ("2", 16), ("3", 5), ("1:ncl", 18)])
def test_a_sequence_of_a_convolution_is_a_map_of_height_one(path, length):
    model = sequences()
    images = torch.rand(2, 3, 20)
    feature = FeatureTaps(model, [path]).run(images).features[0]
    assert feature.shape == (2, 8, 1, length)
    assert feature[:, :, 0].equal(model[: int(path[0]) + 1](images))


def test_tokens_stay_as_they_are():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), layer)
    for path in ("0", "1", "2"):
        assert recorded(model, path, 2, 7, 3).shape == (2, 7, 8)
    with_convolution = nn.ModuleDict({"stem": nn.Conv1d(3, 8, 1), "layer": layer})
    with_convolution.forward = lambda x: layer(with_convolution["stem"](x).mT)
    assert recorded(with_convolution, "layer", 2, 3, 7).shape == (2, 7, 8)
    assert recorded(sequences(), "1:nlc", 2, 3, 20).shape == (2, 8, 18)


@pytest.mark.parametrize(
    ("model", "path", "shape"),
    [
        (sequences(), "1", (2, 3, 20)),  # a ReLU: of a sequence or of tokens
        (sequences(16), "2", (2, 3, 20)),  # a block of as many positions as channels
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(2)), "1", (2, 3, 9, 9)),
        (nn.Sequential(nn.Conv3d(3, 8, 3), nn.ReLU()), "1", (2, 3, 6, 6, 6)),
    ],
)
def test_an_unknown_layout_is_refused(model, path, shape):
    with pytest.raises(ArgumentError, match=rf"^tap '{path}': .*write '{path}:nc"):
        recorded(model, path, *shape)


def test_a_declared_layout_must_fit():
    with pytest.raises(ArgumentError, match=r"'0:ncl'.*\[B, D, L\].*leave ':ncl' out"):
        recorded(nn.Sequential(nn.Conv2d(3, 8, 3)), "0:ncl", 2, 3, 9, 9)


def test_videos():
    model = nn.Sequential(nn.Conv3d(3, 8, 3), nn.ReLU())
    for path in ("0", "1:ncdhw"):
        assert recorded(model, path, 2, 3, 4, 6, 5).shape == (2, 8, 2, 4, 3)
    assert recorded(nn.Sequential(nn.Linear(3, 8)), "0", 2, 4, 6, 5, 3).shape == (2, 8, 4, 6, 5)


@pytest.mark.parametrize("loss", [SVDLoss(), PositionSVDLoss()])
def test_a_loss_of_sequences_equals_that_of_their_maps(loss):
    """A 1-D network against the same one whose convolutions are 2-D and of height one."""

    def network(seed, kind, kernel):
        torch.manual_seed(seed)
        return nn.Sequential(kind(3, 6, kernel), nn.ReLU(), kind(6, 6, kernel), nn.Flatten())

    def of(kind, kernel, images):
        teacher, student = network(0, kind, kernel), network(1, kind, kernel)
        return Distiller(teacher, student, loss, taps=["0", "2"])(images).transfer_loss

    images = torch.rand(4, 3, 24)
    line = of(nn.Conv1d, 3, images)
    torch.testing.assert_close(line, of(nn.Conv2d, (1, 3), images[:, :, None]))


def test_video_maps_of_two_sizes_are_pooled():
    teacher, student = nn.Sequential(nn.Conv3d(3, 6, 3)), nn.Sequential(nn.Conv3d(3, 6, 5))
    loss = PositionSVDLoss()
    distiller = Distiller(teacher, student, loss, taps=["0"])
    videos = torch.rand(2, 3, 8, 8, 8)
    knowledge = distiller.teach(videos)
    assert knowledge.left_vectors[0].shape == (2, 6, 6, 6, 4)
    features = FeatureTaps(student, ["0"]).run(videos).features
    assert float(loss(features, videos, knowledge).detach()) > 0
