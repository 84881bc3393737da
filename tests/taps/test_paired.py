import pytest

from svdistill.common.errors import ArgumentError
from svdistill.taps import PairedTap, PairedTaps, Stage, TapPairs

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
