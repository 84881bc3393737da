"""What a run trained on: which images, and how its networks saw them."""

from __future__ import annotations

from typing import Final

from svdistill.errors import SVDistillError
from svdistill.report.data_names import class_choice
from svdistill.report.deviations import AUGMENTATIONS
from svdistill.report.rebuilding import Missing, card_of
from svdistill.report.runs import Run
from svdistill.training.config import OBJECT
from svdistill.training.weights_card import WeightsCard

MOST_NAMES: Final = 12  # of classes that are all named


def image_facts(run: Run) -> list[tuple[str, str]]:
    """Name and value of each: which images, of what classes and size, seen how."""
    try:
        card: WeightsCard | None = card_of(run)
    except (Missing, SVDistillError):
        card = None
    own = run.config["data"] == OBJECT
    augmentation = AUGMENTATIONS[run.config["augmentation"]]
    facts = [
        ("images", "given in Python" if own else str(run.config["data"])),
        ("of these", "" if class_choice(run.config) == "all classes" else class_choice(run.config)),
        ("trained on", _trained_on(run)),
        ("classes", _classes(run, card)),
        ("size", _size(run, card)),
        ("mean of the channels", "not known" if card is None else _digits(card.mean)),
        ("their standard deviation", "not known" if card is None else _digits(card.std)),
        ("augmentation", augmentation + (", unless they came prepared" if own else "")),
    ]
    return [fact for fact in facts if fact[1]]


def _trained_on(run: Run) -> str:
    config = run.config
    size, held_out, more = (config.get(n) for n in ("train_size", "dev_fraction", "unlabelled"))
    parts = [f"{size:,} of the training images" if size else "all training images"]
    if held_out:
        parts.append(f"{held_out:.0%} of them held out to choose the best epoch")
    if more:
        rest = "those that are left" if more == "rest" else more
        parts.append(f"and without their labels on {rest}")
    return "" if config["data"] == OBJECT else ", ".join(parts)


def _classes(run: Run, card: WeightsCard | None) -> str:
    if card is None:
        return str(run.summary.num_classes)
    names = card.class_names
    more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    return f"{len(names):,}: {', '.join(names[:MOST_NAMES])}{more}"


def _size(run: Run, card: WeightsCard | None) -> str:
    side = run.summary.image_size if card is None else card.image_size
    return f"{side}x{side} pixels"


def _digits(numbers: tuple[float, ...]) -> str:
    return " ".join(f"{number:.3f}" for number in numbers)
