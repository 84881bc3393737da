import pytest

from svdistill.common.plain_values import MOST_BYTES, read_yaml


def test_plain_values(tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text("epochs: 3\ntaps: [a, b]\nwidth: 0.5\nnone: null\n")
    assert read_yaml(path) == {"epochs": 3, "taps": ["a", "b"], "width": 0.5, "none": None}


def billion_laughs() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 9):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (billion_laughs(), "an alias"),
        ("a: &a [*a]", "an alias"),
        ("[" * (MOST_BYTES - 1), "recursion"),
        ("a: " + "x" * MOST_BYTES, "more than 65,536 bytes"),
        ("!!python/object/apply:os.system ['exit 1']", "could not determine a constructor"),
        ("{", "expected"),
        ("\0", "character"),
    ],
)
def test_what_is_no_plain_yaml_is_refused(tmp_path, text, message):
    path = tmp_path / "options.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_yaml(path)
