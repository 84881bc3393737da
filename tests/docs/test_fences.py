"""The reader of fenced blocks finds all of them, wherever they stand."""

from pathlib import Path

from fences import DOCS, ROOT, blocks_of

PAGE = """\
Text.

```python
one = 1

two = 2
```

!!! note

    ```sh
    echo indented
    ```

```
unmarked
```

```python
--8<--
examples/own_loop.py
--8<--
```
"""


def test_blocks_are_found_with_their_lines_and_languages(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    blocks = blocks_of(page)
    assert [(block.line, block.language) for block in blocks] == [
        (4, "python"),
        (12, "sh"),
        (16, ""),
        (20, "python"),
    ]
    assert blocks[0].text == "one = 1\n\ntwo = 2\n"
    assert blocks[1].text == "echo indented\n"


def test_an_included_file_is_in_the_text(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    block = blocks_of(page)[-1]
    assert block.included == ("examples/own_loop.py",)
    assert block.text == (ROOT / "examples" / "own_loop.py").read_text()


def test_every_fence_of_every_page_is_found() -> None:
    for page in DOCS.rglob("*.md"):
        fences = sum(line.lstrip().startswith("```") for line in page.read_text().splitlines())
        assert fences == 2 * len(blocks_of(page)), page
