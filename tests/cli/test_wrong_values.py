"""Options with a value of a wrong type: what was expected, what came, and a remedy."""

import pytest

from svdistill.cli import main


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("clip", "amortized", "'amortised', got 'amortized'; did you mean 'amortised'?"),
        ("gradient", "exct", "one of 'exact', 'poster', 'authors', got 'exct'; did you mean"),
        ("mix", "mixed", "one of 'mixup', 'cutmix', 'both', got 'mixed'; "),
        ("schedule", "linear", "'constant', got 'linear'; choose one of these"),
        ("precision", "fp17", "'auto', got 'fp17'; did you mean 'fp16'?"),
        ("seeds", "two", "an integer, got 'two'; see `svdistill distill --help`"),
        ("num_vectors", "1.5", "an integer, got '1.5'; see"),
        ("temperature", "abc", "a number, got 'abc'; see"),
        ("workers", "x", "an integer, got 'x'; see"),
        ("keep_memory", "perhaps", "true or false, got 'perhaps'; see"),
        ("teacher_taps", "[a", "a list such as [first,second], got '[a'; see"),
        ("train_size", "None", "an integer, got 'None'; leave out train_size for its default"),
    ],
)
def test_a_value_of_a_wrong_type(option, value, expected, capsys):
    assert main(["distill", f"--{option}", value]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"svdistill: {option}: expected ")
    assert expected in said
    assert said.count("\n") == 1
    assert "Parser key" not in said


def test_null_is_an_empty_value(capsys):
    assert main(["distill", "--train_size", "null", "--output", "x"]) == 2
    assert capsys.readouterr().err.startswith("svdistill: teacher: ")
