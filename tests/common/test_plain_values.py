import dataclasses
import json
from typing import Literal

import pytest
from hypothesis import given, strategies as st

from svdistill.common.plain_values import Finite, from_plain, plain_fields


@dataclasses.dataclass(frozen=True)
class Side:
    pixels: int


@dataclasses.dataclass(frozen=True)
class Everything:
    name: str
    width: float
    sides: tuple[int, ...]
    kind: Literal["a", "b"]
    nested: Side
    maybe: Side | None = None
    either: int | str = 0
    flag: bool = False
    names: list[str] = dataclasses.field(default_factory=list)


GOOD = Everything("x", 1.5, (1, 2), "b", Side(3), Side(4), "five", True, ["n"])


def test_comes_back_from_json():
    assert from_plain(Everything, json.loads(json.dumps(dataclasses.asdict(GOOD)))) == GOOD


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": 1}, "name: expected `str`, got `int`"),
        ({"name": "a\0b"}, "name: expected a text without NUL and half pairs, got 'a"),
        ({"name": "\ud800"}, "name: expected a text"),
        ({"\ud800": 1}, "a name: expected a text"),
        ({"width": True}, "width: expected `float`, got `bool`"),
        ({"width": 2**70}, "width: .*more than 64 bits"),
        ({"sides": [1, 1.5]}, r"sides.*: expected `int`, got `float`"),
        ({"sides": "12"}, "sides: expected `array`, got `str`"),
        ({"sides": [True]}, r"sides.*: expected `int`, got `bool`"),
        ({"kind": "c"}, "kind: invalid enum value 'c'"),
        ({"kind": "c" * 9999}, "kind|value"),
        ({"kind": ["a"]}, "kind: expected `str`"),
        ({"nested": {"pixels": 2**70}}, "pixels: .*more than 64 bits"),
        ({"nested": {"pixels": 1, "other": 1}}, "unknown: 'other'"),
        ({"nested": None}, "nested: expected `object`, got `null`"),
        ({"maybe": {}}, "maybe: object missing required field `pixels`"),
        ({"either": 1.5}, r"either: expected `int \| str`, got `float`"),
        ({"flag": 1}, "flag: expected `bool`, got `int`"),
        ({"other": 1}, "unknown: 'other'"),
    ],
)
def test_another_type_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message) as refused:
        from_plain(Everything, {**dataclasses.asdict(GOOD), **changes})
    assert len(str(refused.value)) <= 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([f.name for f in dataclasses.fields(GOOD)]), JSON) | JSON)
def test_anything_is_taken_or_refused(value):
    try:
        built = from_plain(Everything, value)
    except ValueError:
        return
    assert from_plain(Everything, dataclasses.asdict(built)) == built or built.width != built.width


def test_fields_may_be_missing_or_of_another_version():
    values = {"name": "x", "width": 2, "sides": [1], "of_another_version": object()}
    assert plain_fields(Everything, values) == {"name": "x", "width": 2.0, "sides": (1,)}
    with pytest.raises(ValueError, match=r"^flag: expected `bool`, got `str`"):
        plain_fields(Everything, {"flag": "yes"})
    with pytest.raises(ValueError, match=r"^nested: pixels: expected `int`, got `str`"):
        plain_fields(Everything, {"nested": {"pixels": "3"}})


def test_depth_is_no_matter():
    value: object = 1
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ValueError, match="name: expected `str`, got `array`"):
        from_plain(Everything, {**dataclasses.asdict(GOOD), "name": value})


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_finite(number):
    kind = tuple[Finite, ...]
    assert from_plain(kind, [1.0, 0, -2.5, 1.7e308]) == (1.0, 0.0, -2.5, 1.7e308)
    with pytest.raises(ValueError, match=r"^\[1\]: expected a finite number"):
        from_plain(kind, [1.0, number])
