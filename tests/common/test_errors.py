import copy
import pickle

import pytest

from svdistill.common.errors import (
    ArgumentError,
    DataError,
    RunError,
    SVDistillError,
    TrainingError,
    nearest,
    require_choice,
    require_count,
    require_positive,
)


@pytest.mark.parametrize("kind", [ArgumentError, DataError, RunError, TrainingError])
def test_message_says_argument_expected_got_and_remedy(kind):
    error = kind("k", expected="1 to 4", got=[5], remedy="lower it")
    assert str(error) == "k: expected 1 to 4, got [5]; lower it"
    assert error.argument == "k"
    assert isinstance(error, SVDistillError)


def test_wrong_arguments_are_value_errors_too():
    with pytest.raises(ValueError, match="clip"):
        require_choice("clip", "nrom", ["norm"])


@pytest.mark.parametrize("kind", [ArgumentError, DataError, RunError, TrainingError])
@pytest.mark.parametrize(
    "through", [copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))]
)
def test_errors_come_back_whole_from_another_process(kind, through):
    error = kind("k", expected="one", got=lambda: None, remedy="wait")  # a lambda has no pickle
    twin = through(error)
    assert type(twin) is kind
    assert (str(twin), twin.argument) == (str(error), "k")


@pytest.mark.parametrize(
    ("name", "names", "said"),
    [
        ("stge1", ["stage1", "head"], "did you mean 'stage1'?"),
        ("x", ["b", "a"], "choose from 'a', 'b'"),
        ("x", [f"n{i:02}" for i in range(12)], "'n11'"),
        ("x", [f"n{i:02}" for i in range(13)], "'n11', ..."),
    ],
)
def test_nearest_phrases_a_remedy(name, names, said):
    assert nearest(name, iter(names)).endswith(said)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "1", None])
def test_require_positive_refuses(value):
    with pytest.raises(ArgumentError, match=r"^beta: .*got "):
        require_positive("beta", value)


@pytest.mark.parametrize("value", [1, 1e-300, 0.5])
def test_require_positive_lets_through(value):
    require_positive("beta", value)


@pytest.mark.parametrize("value", [1, True, 2.0, "2", None, float("nan")])
def test_require_count_refuses(value):
    with pytest.raises(ArgumentError, match=r"at least 2.*2 or more"):
        require_count("k", value, minimum=2)


def test_require_count_lets_through_its_minimum():
    require_count("k", 0, minimum=0)


def test_require_choice_names_the_nearest():
    with pytest.raises(ArgumentError, match=r"did you mean 'poster'\?"):
        require_choice("clip", "posted", ["norm", "poster"])
    with pytest.raises(ArgumentError, match="got None"):
        require_choice("clip", None, ["norm"])


def test_require_choice_lists_some_of_many_choices():
    names = [f"name{number}" for number in range(41)]
    require_choice("method", "name40", names)
    with pytest.raises(ArgumentError, match=r"41 names such as 'name0', .*'name9', got 'mane40'"):
        require_choice("method", "mane40", names)
