"""How stages are paired; networks of other packages are in test_pairing_zoo.py."""

import itertools
import pickle
import random

import pytest
import torch
from torch import Tensor, nn

from svdistill.common.errors import ArgumentError
from svdistill.taps import (
    FeatureTaps,
    PairedTap,
    PairedTaps,
    TapPairs,
    describe_pairs,
    pair_taps,
)
from svdistill.taps.pairing import align_stages
from svdistill.taps.stages import FoundStage, Stage


def images(batch: int = 3, side: int = 16) -> Tensor:
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0))


def block(channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, 3, stride, padding=1),
        nn.ReLU(),
        nn.Conv2d(out_channels, out_channels, 3, padding=1),
    )


def network(*channels: int) -> nn.Sequential:
    """A block per number of channels, each at half the size of the one before."""
    blocks = [block(a, b, 2) for a, b in itertools.pairwise((3, *channels))]
    return nn.Sequential(*blocks, nn.Flatten())


def isotropic(channels: int, depth: int) -> nn.Sequential:
    blocks = [block(channels, channels, 1) for _ in range(depth)]
    return nn.Sequential(nn.Conv2d(3, channels, 4, 4), *blocks, nn.Flatten())


def test_stages_of_equal_size() -> None:
    paired = pair_taps(network(8, 16, 32), network(4, 16, 8), images())
    assert paired.pairs == TapPairs(("0", "1", "2"), ("0", "1", "2"))
    assert [row.needs_adapter for row in paired.rows] == [True, False, True]
    assert [row.why for row in paired.rows] == ["both 8x8", "both 4x4", "both 2x2"]
    assert paired.rows[0].teacher == Stage("0", (8, 8, 8))
    assert paired.rows[0].student == Stage("0", (4, 8, 8))


def test_the_deepest_are_kept() -> None:
    teacher, student = network(4, 4, 4, 4, 4), network(2, 2, 2, 2, 2)
    assert pair_taps(teacher, student, images(side=64)).pairs.teacher == ("1", "2", "3", "4")
    assert pair_taps(teacher, student, images(side=64), count=2).pairs.teacher == ("3", "4")
    assert len(pair_taps(teacher, student, images(side=64), count=9).rows) == 5


@pytest.mark.parametrize(
    ("count", "expected"), [(2, "2 4"), (3, "2 3 4"), (4, "1 2 3 4"), (9, "1 2 3 4")]
)
def test_isotropic_networks_at_even_depths(count: int, expected: str) -> None:
    paired = pair_taps(isotropic(8, 8), isotropic(4, 4), images(), count=count)
    assert " ".join(paired.pairs.student) == expected
    assert paired.pairs.teacher[-1] == "8"
    assert paired.rows[-1].why == "at 100% depth"


def test_an_isotropic_network_offers_the_block_of_the_right_depth() -> None:
    paired = pair_taps(isotropic(8, 8), network(4, 4, 4), images())
    assert paired.pairs == TapPairs(("2", "5", "8"), ("0", "1", "2"))
    assert [row.why for row in paired.rows] == ["at 29% and 33% depth", "both 4x4", "at 100% depth"]


def test_two_networks_that_see_an_image_at_different_resolutions_meet_at_the_end() -> None:
    stem = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, stride=2), nn.MaxPool2d(2))
    body = [block(3, 8, 2), *isotropic(8, 4)[1:-1], block(8, 8, 2), block(8, 8, 2)]
    paired = pair_taps(nn.Sequential(stem, *body), network(4, 4, 4), images(side=64))
    assert paired.pairs == TapPairs(("5", "6", "7"), ("0", "1", "2"))


def test_no_other_pairing_agrees_more() -> None:
    draw = random.Random(0)

    def stages(number: int) -> list[FoundStage]:
        depths = sorted(draw.random() for _ in range(number))
        sizes = sorted((draw.randint(1, 4) for _ in range(number)), reverse=True)
        return [
            FoundStage(Stage(str(i), (4, n, n)), (n, n), depth)
            for i, (n, depth) in enumerate(zip(sizes, depths, strict=True))
        ]

    def agreement(pairs: list[tuple[FoundStage, FoundStage]]) -> float:
        return sum(
            (1 - abs(t.depth - s.depth)) * (1.5 if t.map_size == s.map_size else 1)
            for t, s in pairs
        )

    for _ in range(40):
        teacher, student = stages(draw.randint(0, 5)), stages(draw.randint(0, 5))
        every = [
            list(zip(front, back, strict=True))
            for number in range(min(len(teacher), len(student)) + 1)
            for front in itertools.combinations(teacher, number)
            for back in itertools.combinations(student, number)
        ]
        found = align_stages(teacher, student)
        assert found in every
        assert agreement(found) == pytest.approx(max(map(agreement, every)))


def test_found_again_the_same() -> None:
    teacher, student = isotropic(8, 8), network(4, 4, 4)
    paired = pair_taps(teacher, student, images(5))
    assert pair_taps(teacher, student, images(1)) == paired
    assert pair_taps(teacher.to("meta"), student.to("meta"), images(5)) == paired


def test_the_pairs_travel_without_the_networks() -> None:
    paired = pair_taps(network(8, 16, 32), network(4, 8, 16), images())
    packed = pickle.dumps(paired)
    assert pickle.loads(packed) == paired
    assert b"torch" not in packed
    assert (
        pickle.loads(packed).replace(0, student="1.2").rows
        == paired.drop(1).replace(0, student="1.2").rows[:1] + paired.rows[1:]
    )


class TestErrors:
    def test_too_few_stages_are_listed(self) -> None:
        flat = nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.Linear(8, 2))
        with pytest.raises(
            ArgumentError,
            match=r"^taps: .*got the teacher's 0 \(8x8\), 1 \(4x4\) and the student's none; "
            r".*TapPairs",
        ):
            pair_taps(network(4, 4), flat, images())

    def test_one_network_for_both(self) -> None:
        teacher = network(4, 4)
        with pytest.raises(ArgumentError, match=r"^student: expected another network"):
            pair_taps(teacher, teacher, images())
        with pytest.raises(ArgumentError, match=r"^student: expected another network"):
            describe_pairs(teacher, teacher, TapPairs(("0",), ("0",)), images())

    @pytest.mark.parametrize("count", [1, 0, 2.5])
    def test_one_pair_is_none(self, count: int) -> None:
        with pytest.raises(ArgumentError, match=r"^count"):
            pair_taps(network(4, 4), network(2, 2), images(), count=count)


class TestDescription:
    def test_has_shapes_and_channels_of_chosen_modules(self) -> None:
        teacher, student = network(8, 16), network(4, 16)
        paired = describe_pairs(teacher, student, TapPairs(["0.0", "1"], ["0", "1"]), images())
        assert paired.pairs == TapPairs(("0.0", "1"), ("0", "1"))
        assert [row.teacher.shape for row in paired.rows] == [(8, 8, 8), (16, 4, 4)]
        assert [row.why for row in paired.rows] == ["chosen by you"] * 2
        assert paired.replace(0, teacher="0").pairs.teacher == ("0", "1")

    def test_leaves_the_networks_as_they_are(self) -> None:
        teacher, student = network(8, 16).train(), network(4, 16).eval()
        describe_pairs(teacher, student, TapPairs(("0",), ("0",)), images())
        assert all(module.training for module in teacher.modules())
        assert not any(module.training for module in student.modules())

    def test_needs_a_student_for_each(self) -> None:
        with pytest.raises(ArgumentError, match=r"^taps: .*got 2 and 1; pair them"):
            describe_pairs(network(4, 4), network(2, 2), TapPairs(("0", "1"), ("0",)), images())

    def test_says_what_is_wrong_with_a_path(self) -> None:
        with pytest.raises(ArgumentError, match=r"^taps: .*got '1\.7'; did you mean '1\.[012]'"):
            describe_pairs(network(4, 4), network(2, 2), TapPairs(("1.7",), ("0",)), images())
        overwritten = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
        with pytest.raises(ArgumentError, match=r"^tap '0': .*overwritten in place"):
            describe_pairs(overwritten, network(2, 2), TapPairs(("0",), ("0",)), images())


def test_paired_taps_are_recorded_with_their_shapes() -> None:
    teacher, student = isotropic(8, 8), network(4, 4, 4)
    paired = pair_taps(teacher, student, images())
    for model, paths, rows in zip(
        (teacher, student),
        paired.pairs,
        zip(*((r.teacher, r.student) for r in paired.rows), strict=True),
        strict=True,
    ):
        features = FeatureTaps(model, paths).run(images()).features
        assert [tuple(feature.shape[1:]) for feature in features] == [row.shape for row in rows]


TEACHER = (
    Stage("stem", (32, 28, 28)),
    Stage("layers.0", (28, 28, 96)),
    Stage("layers.1", (14, 14, 192)),
    Stage("head", (10,)),
)
STUDENT = (
    Stage("layer1", (96, 28, 28)),
    Stage("layer2.0", (64, 14, 14)),
    Stage("layer2", (64, 14, 14)),
)


def paired() -> PairedTaps:
    rows = (
        PairedTap(Stage("layers.0:nhwc", (96, 28, 28)), STUDENT[0], "both 28x28"),
        PairedTap(Stage("layers.1:nhwc", (192, 14, 14)), STUDENT[2], "both 14x14"),
    )
    return PairedTaps(rows, TEACHER, STUDENT)


def test_the_table() -> None:
    assert str(paired()).splitlines() == [
        "   teacher        shape      student  shape     adapter    why",
        "0  layers.0:nhwc  96x28x28   layer1   96x28x28  no         both 28x28",
        "1  layers.1:nhwc  192x14x14  layer2   64x14x14  64 -> 192  both 14x14",
    ]


def test_long_paths_lie_one_below_the_other() -> None:
    long = Stage("a_model.with_a_long.path_to.its_stages.0.blocks.11", (32, 28, 28))
    rows = (PairedTap(long, STUDENT[0], "both 28x28"), PairedTap(TEACHER[3], long, "why not"))
    assert str(PairedTaps(rows, (), ())).splitlines() == [
        "   teacher, and below it student                       shape     adapter   why",
        "0  a_model.with_a_long.path_to.its_stages.0.blocks.11  32x28x28            both 28x28",
        "   layer1                                              96x28x28  96 -> 32",
        "1  head                                                10                  why not",
        "   a_model.with_a_long.path_to.its_stages.0.blocks.11  32x28x28  32 -> 10",
    ]


def test_repr_does_not_list_every_module() -> None:
    assert "stem" not in repr(paired())
    assert "layers.1:nhwc" in repr(paired())


def test_paths_alone() -> None:
    assert paired().pairs == TapPairs(("layers.0:nhwc", "layers.1:nhwc"), ("layer1", "layer2"))


def test_replacing_one_side() -> None:
    before = paired()
    after = before.replace(1, student="layer2.0")
    assert after.rows[0] == before.rows[0]
    assert after.rows[1] == PairedTap(before.rows[1].teacher, STUDENT[1], "chosen by you")
    assert before == paired()


def test_replacing_both_sides() -> None:
    row = paired().replace(0, teacher="stem", student="layer2.0").rows[0]
    assert row == PairedTap(TEACHER[0], STUDENT[1], "chosen by you")
    assert row.needs_adapter


def test_replacing_by_a_map_with_channels_last() -> None:
    row = paired().drop(0).replace(0, teacher="layers.0:nhwc").rows[0]
    assert row.teacher == Stage("layers.0:nhwc", (96, 28, 28))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": "layer.1"}, r"^teacher: .*got 'layer\.1'; did you mean 'layers\.1'"),
        ({"student": "layers.1:nhwc"}, r"^student: .*; did you mean 'layer"),
        ({"teacher": "head:nhwc"}, r"^tap 'head:nhwc': .*\(1, 10\); leave ':nhwc' out"),
        ({"student": "layer1"}, r"^student: expected each module once, .*drop a row first"),
        ({"teacher": "layers.0"}, r"^teacher: expected each module once"),
    ],
)
def test_replacing_by_what_cannot_be_tapped(change: dict[str, str], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        paired().replace(1, **change)


def test_dropping_a_row() -> None:
    assert paired().drop(0).rows == paired().rows[1:]
    assert paired().drop(1).rows == paired().rows[:1]


@pytest.mark.parametrize("row", [2, -1])
def test_a_row_that_is_not_there(row: int) -> None:
    with pytest.raises(ArgumentError, match=r"^row: expected the number of a row, 0 to 1"):
        paired().drop(row)
    with pytest.raises(ArgumentError, match=r"^row"):
        paired().replace(row, student="layer1")
