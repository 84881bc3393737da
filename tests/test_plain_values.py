import dataclasses
import json
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svdistill.plain_values import from_plain, require_finite, require_plain


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
        ({"name": 1}, "name is no str: 1"),
        ({"name": "a\0b"}, "name is no text"),
        ({"name": "\ud800"}, "name is no text"),
        ({"width": True}, "width is no float: True"),
        ({"width": 2**70}, "width is no float"),
        ({"sides": [1, 1.5]}, r"sides\[\] is no int: 1.5"),
        ({"sides": "12"}, "sides is no"),
        ({"sides": [True]}, r"sides\[\] is no int: True"),
        ({"kind": "c"}, "kind is no"),
        ({"kind": ["a"]}, "kind is no"),
        ({"nested": {"pixels": 2**70}}, "pixels is no int"),
        ({"nested": None}, "nested is no Side"),
        ({"maybe": {}}, "pixels is missing"),
        ({"either": 1.5}, "either is no str: 1.5"),
        ({"flag": 1}, "flag is no bool: 1"),
        ({"other": 1}, "unknown: 'other'"),
    ],
)
def test_another_type_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        from_plain(Everything, {**dataclasses.asdict(GOOD), **changes})


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


def test_only_what_is_there_is_required_to_fit():
    require_plain(Everything, {"name": "x", "of_another_version": object()})
    with pytest.raises(ValueError, match="flag is no bool"):
        require_plain(Everything, {"flag": "yes"})


def test_finite():
    require_finite(a=1.0, b=(0.0, 2.0))
    with pytest.raises(ValueError, match="b is not finite"):
        require_finite(a=1.0, b=(0.0, float("nan")))
