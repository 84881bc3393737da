"""Each message that the documentation quotes is one that the source gives."""

from __future__ import annotations

import pytest
from fences import DOCS, Block, blocks_of
from messages import PARTS, SOURCE, Messages


def unwrapped(block: Block) -> str:
    return " ".join(block.text.split())


TEXTS = [b for page in DOCS.rglob("*.md") for b in blocks_of(page) if b.language == "text"]
QUOTED = [b for b in TEXTS if b.page == "troubleshooting.md" or PARTS.fullmatch(unwrapped(b))]


@pytest.fixture(scope="module")
def messages() -> Messages:
    return Messages()


def test_pages_quote_messages() -> None:
    assert len(QUOTED) > 10


@pytest.mark.parametrize("block", QUOTED, ids=lambda block: unwrapped(block)[:40])
def test_a_quoted_message_is_in_the_source(block: Block, messages: Messages) -> None:
    message = unwrapped(block)
    if message.startswith("RuntimeError: "):  # another package's, which ours names
        named = message.removeprefix("RuntimeError: ")
        assert any(named in path.read_text() for path in SOURCE.rglob("*.py"))
    else:
        assert messages.give(message)


@pytest.mark.parametrize(
    "message",
    [
        "loss: expected a finite number, got nan in epoch 3; lower the roof",
        "the transfer loss was zero in every step",
        "tap 'relu': expected the moon, got 2 runs; tap a module around it",
    ],
)
def test_a_message_that_nothing_gives_is_noticed(message: str, messages: Messages) -> None:
    assert not messages.give(message)
