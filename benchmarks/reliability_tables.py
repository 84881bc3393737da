"""Tables of docs/reliability.md and docs/parallel.md, from benchmarks/results/reliability."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from svdistill_benchmarks.tables import markdown

MEASURED = Path(__file__).parent / "results" / "reliability"

Rows = Sequence[dict[str, Any]]

# Of NAME.json: the list of rows, and each column's title and key.
RELIABILITY: dict[str, tuple[str, dict[str, str]]] = {
    "kills": (
        "cases",
        {
            "run": "case",
            "runs": "runs",
            "kills": "kills",
            "before the first checkpoint": "before_the_first",
            "within an epoch": "within_an_epoch",
            "between epochs": "between_epochs",
            "finished already": "finished",
            "checkpoints damaged": "damaged",
            "runs that ended otherwise": "differ",
        },
    ),
    "mutations": (
        "kinds",
        {
            "file": "kind",
            "checksum": "checksum",
            "damaged": "mutations",
            "refused": "refused",
            "read as it was": "same",
            "read as another": "other",
            "traceback": "traceback",
            "crash": "crash",
            "hang": "hang",
        },
    ),
    "fuzzing": (
        "parsers",
        {"parser": "parser", "seconds": "seconds", "inputs": "executions", "crashes": "crashes"},
    ),
}


def parallel_table() -> str:
    """The largest difference of each loss, over clips and stages, by processes and precision."""
    measured = json.loads((MEASURED / "parallel.json").read_text())["rows"]
    kinds = sorted({(row["processes"], row["dtype"]) for row in measured}, reverse=True)
    kinds.sort(key=lambda kind: kind[0])
    rows = []
    for loss in dict.fromkeys(row["loss"] for row in measured):
        own = [row for row in measured if row["loss"] == loss]
        cells = [f"`{loss}`", f"{len({(row['clip'], row['stages']) for row in own})}"]
        for kind in kinds:
            found = [r["largest"] for r in own if (r["processes"], r["dtype"]) == kind]
            cells.append(f"{max(found):.0e}" if found else "")
        rows.append(cells)
    names = [f"{processes} processes, {dtype}" for processes, dtype in kinds]
    return markdown(("loss", "clips x stages", *names), rows)


def ties_table() -> str:
    """How often an order of the images meets a ReLU that is a toss-up, and what that costs."""
    measured = json.loads((MEASURED / "parallel.json").read_text())["ties"]
    rows = []
    for activation, smooth in (("ReLU", False), ("SiLU", True)):
        found = [row["largest"] for row in measured if row["smooth"] == smooth]
        above = sum(largest > 1e-6 for largest in found)
        rows.append((activation, f"{len(found)}", f"{above}", f"{max(found):.0e}"))
    return markdown(("activation", "orders of the images", "above 1e-6", "the largest"), rows)


def reliability_table(name: str) -> str:
    """The rows of a file in benchmarks/results/reliability/, with a sum of the kills."""
    rows_key, headings = RELIABILITY[name]
    measured = json.loads((MEASURED / f"{name}.json").read_text())
    rows = list(measured[rows_key])
    if name == "kills":
        rows.append(_with_sum("case", rows, headings))
    packages = measured["environment"]["packages"]
    seed = f", seed {measured['seed']}" if "seed" in measured else ""
    made = f"torch {packages['torch']}, Python {measured['environment']['python']}{seed}."
    return f"{_counts(rows, headings)}\n\n{made}"


def _counts(rows: Rows, headings: dict[str, str]) -> str:
    """A table of numbers, by the title of each column and its key."""
    return markdown(
        list(headings), [[_cell(row[key]) for key in headings.values()] for row in rows]
    )


def _with_sum(name: str, rows: Rows, headings: dict[str, str]) -> dict[str, Any]:
    """The sums of all columns but the first."""
    keys = [key for key in headings.values() if key != name]
    return {name: "all", **{key: sum(row[key] for row in rows) for key in keys}}


def numbers_table() -> str:
    """What became of the cases of benchmarks/reliability/fuzz.py, and how far off numbers were."""
    measured = json.loads((MEASURED / "numbers.json").read_text())
    headings = {
        "": "kind",
        "cases": "cases",
        "with NaN or infinity": "not finite",
        "finite, forward and backward": "finite",
        "clear error": "error",
        "of them without NaN or infinity": "refused finite",
        "anything else": "failed",
    }
    rows = list(measured["kinds"])
    rows.append(_with_sum("kind", rows, headings))
    defects, neighbours = measured["orthonormality"], measured["neighbours"]
    ours = {
        dtype: max(defects[f"{dtype}, {solver}"] for solver in ("auto", "gram", "subspace"))
        for dtype in ("float32", "float64")
    }
    gradients = measured["gradients"]
    packages, python = measured["environment"]["packages"], measured["environment"]["python"]
    worst = markdown(
        ("", "checked", "worst in float32", "in float64"),
        [
            (
                "`VᵀV` from the identity, an entry",
                "every finite map",
                f"{ours['float32']:.0e}",
                f"{ours['float64']:.0e}",
            ),
            (
                "the same of `torch.linalg.svd`",
                "every finite map",
                f"{defects['float32, svd']:.0e}",
                f"{defects['float64, svd']:.0e}",
            ),
            (
                "gradient against the full SVD's in float64, relative",
                f"{sum(one['checked'] for one in gradients.values()):,}",
                f"{gradients['float32']['worst']:.0e}",
                f"{gradients['float64']['worst']:.0e}",
            ),
            (
                "a sample's gradient beside bad samples against that without them, relative",
                f"{neighbours['checked']:,}",
                *2 * (f"{neighbours['worst']:.0g}",),
            ),
        ],
    )
    return (
        f"{_counts(rows, headings)}\n\n{worst}\n\n"
        f"Of {measured['decomposed']:,} matrices that subspace iteration was given "
        f"{measured['recomputed']:,} were computed again. torch {packages['torch']}, "
        f"Python {python}, {measured['environment']['threads']} thread, seed "
        f"{measured['seed']}, {measured['seconds'] / 60:.0f} minutes."
    )


def _cell(value: object) -> str:
    """A number with its thousands; yes or nothing."""
    if isinstance(value, bool):
        return "SHA-256" if value else ""
    return f"{value:,}" if isinstance(value, int) else str(value)
