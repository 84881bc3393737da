"""Write the tables and curves of the committed results into results/, README.md and docs/.

    python benchmarks/write_tables.py          # write
    python benchmarks/write_tables.py --check  # exit 1 if a page says something else

A set of runs is a folder under results/, each run a folder NAME or NAME-SEED in it. In a page, a
table stands between `<!-- table: NAME -->` and `<!-- end -->`: NAME is a set of runs, a benchmark
(`step`, `svd`, `dfv`), `agreement`, `networks`, `PRESET/summary`, or of reliability: `kills`,
`mutations`, `fuzzing`, `numbers` or `parallel`.
"""

from __future__ import annotations

import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

from svdistill.common import Cell, Table, columns, mean_cell, millions_cell, number_cell
from svdistill.networks import describe_network, network_names, published_size
from svdistill.report import (
    Comparison,
    MethodResult,
    compare,
    find_runs,
    method_rows,
    plot_curves,
    run_table,
)
from svdistill.runs import read_summary
from svdistill_benchmarks import DFVResult, StepResult, SVDResult
from svdistill_benchmarks.run import read_result
from svdistill_benchmarks.tables import footnotes, result_tables

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
MEASURED = ROOT / "benchmarks" / "results"
PAGES = (
    *("README.md", "docs/speed.md", "docs/findings.md", "docs/all_runs.md", "docs/reliability.md"),
    *("docs/parallel.md", "docs/networks.md", "docs/accuracy.md"),
)
BENCHMARKS: dict[str, type[StepResult] | type[SVDResult] | type[DFVResult]] = {
    "step": StepResult,
    "svd": SVDResult,
    "svd-trained": SVDResult,
    "dfv": DFVResult,
}
# Rows in the order in which they are read, by the run's folder.
SETS = {
    "demo": {
        "teacher": "teacher (1,078 labels)",
        "student": "student alone",
        "soft-target": "soft target",
        "fsp": "FSP",
        "svd": "SVD",
        "position-svd-soft-target": "position SVD + soft target",
    },
    "cifar100-short": {
        "vgg-teacher": "VGG teacher, 10 epochs",
        "vgg-4epochs-student": "VGG student alone, 4 epochs",
        "vgg-4epochs-svd": "VGG student, SVD, 4 epochs",
        "vgg-4epochs-svd-w002": "VGG student, SVD, weight 0.02, 4 epochs",
        "vgg-stride-student": "VGG_stride student alone, 10 epochs",
        "vgg-stride-svd": "VGG_stride student, SVD, 10 epochs",
        "vgg-stride-4epochs-student": "VGG_stride student alone, 4 epochs",
        "vgg-stride-4epochs-soft-target": "VGG_stride student, soft target, 4 epochs",
        "vgg-stride-4epochs-svd": "VGG_stride student, SVD, 4 epochs",
        "vgg-stride-4epochs-svd-w002": "VGG_stride student, SVD, weight 0.02, 4 epochs",
        "mobilenet-teacher": "MobileNet teacher, 6 epochs",
        "mobilenet-student": "MobileNet student alone, 6 epochs",
    },
    "mini-clip": {
        "vgg-teacher": "VGG teacher, 80 epochs",
        "vgg-stride-student": "VGG_stride student alone",
        "vgg-stride-svd-norm": "VGG_stride student, SVD, `norm`",
        "vgg-stride-svd-global": "VGG_stride student, SVD, `global`",
        "vgg-stride-svd-amortised": "VGG_stride student, SVD, `amortised`",
    },
    "channels": {
        "student": "student alone",
        "soft-target": "soft target",
        "svd-adapters": "SVD, adapters",
        "svd-adapters-soft-target": "SVD, adapters + soft target",
        "position-svd": "position SVD",
        "position-svd-soft-target": "position SVD + soft target",
    },
    "timm-digits": {
        "teacher": "timm:resnet18, the teacher",
        "student": "timm:mobilenetv3_small_050 alone",
        "soft-target": "soft target",
        "svd": "SVD, adapters",
        "svd-soft-target": "SVD, adapters + soft target",
        "position-svd": "position SVD",
        "position-svd-soft-target": "position SVD + soft target",
        "position-svd-soft-target-weighted": "the same, weights 0.1 : 0.9",
    },
    "few-labels": {
        "student": "student alone",
        "soft-target-labelled": "soft target, labelled images",
        "svd-labelled": "SVD, labelled images",
        "svd-soft-target-labelled": "SVD + soft target, labelled images",
        "soft-target-all": "soft target, all images",
        "svd-all": "SVD, all images",
        "svd-soft-target-all": "SVD + soft target, all images",
    },
}
TITLES = {
    "demo": "Digits, 100 labels for the student",
    "cifar100-short": "CIFAR-100, half width, short runs",
    "mini-clip": "CIFAR-100, 20 classes, half width",
}


# Rows of README's table, by their names in the report.
SUMMARY = {
    "teacher": "teacher",
    "student alone": "student alone",
    "FSP, 2-stage": "FSP (2017), 2-stage",
    "soft target": "soft target (2015)",
    "SVD": "SVD, as in the paper",
    "SVD, amortised": "SVD, our clip",
    "position SVD + soft target": "position SVD + soft target",
    "Gram of positions + soft target, grid 4": "**Gram of positions + soft target: the default**",
}

# Of benchmarks/results/reliability/NAME.json: the list of rows, and each column's title and key.
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
# Over the floor: VGG and MobileNet, set before anything was measured.
STEP_TARGETS = {
    "SVD": (1.05, 1.10),
    "SVD, amortised": (0.82, 0.76),
    "SVD, amortised, from store": (0.45, 0.58),
}


def runs_of(name: str) -> list[tuple[str, Path]]:
    """The finished runs of a set, labelled, in the table's order."""
    found: list[tuple[str, Path]] = []
    for folder, label in SETS[name].items():
        candidates = sorted((RESULTS / name).glob(f"{folder}*"))
        found += [
            (label, path)
            for path in candidates
            if re.fullmatch(rf"{folder}(-\d+)?", path.name) and (path / "summary.json").exists()
        ]
    return found


def with_tables(text: str) -> str:
    """The text with every table between its markers made anew."""

    def table(found: re.Match[str]) -> str:
        if found[1] in BENCHMARKS:
            rows = benchmark_tables(found[1])
        elif found[1] == "step-targets":
            rows = step_targets()
        elif found[1] == "agreement":
            rows = agreement_table()
        elif found[1] == "networks":
            rows = networks_markdown()
        elif found[1] == "recipe-search":
            rows = recipe_search_table()
        elif found[1] == "tap-gradients":
            rows = tap_gradients_table()
        elif found[1] == "parallel":
            rows = parallel_table()
        elif found[1] == "parallel-ties":
            rows = ties_table()
        elif found[1] == "numbers":
            rows = numbers_table()
        elif found[1] in RELIABILITY:
            rows = reliability_table(found[1])
        elif found[1].endswith("/summary"):
            rows = summary_table(found[1].removesuffix("/summary"))
        elif found[1].startswith("mini/"):
            rows = mini_table(found[1].removeprefix("mini/"))
        else:
            runs = [(label, read_summary(path)) for label, path in runs_of(found[1])]
            rows = run_table(method_rows(runs)).to_markdown()
        return f"<!-- table: {found[1]} -->\n\n{rows}\n\n<!-- end -->"

    return re.sub(r"<!-- table: (\S+) -->.*?<!-- end -->", table, text, flags=re.DOTALL)


def benchmark_tables(name: str) -> str:
    """All tables of a benchmark's result, each under its title, and where it was measured."""
    result = read_result(MEASURED / f"{name}.json", BENCHMARKS[name])
    tables = [f"**{one.title}**\n\n{one.to_markdown()}" for one in result_tables(result)]
    return "\n\n".join([*tables, *footnotes(result)])


def step_targets() -> str:
    """What the rows of benchmarks/results/step.json were to cost, and what they do."""
    result = read_result(MEASURED / "step.json", StepResult)
    lines = ["|  | teacher | to be at most | measured |", "|---|---|---|---|"]
    for name, targets in STEP_TARGETS.items():
        for table, target in zip(result.tables, targets, strict=True):
            (ratio,) = (row.over_floor.median for row in table.rows if row.name == name)
            lines.append(f"| {name} | {table.teacher} | {target:.2f} | {ratio:.2f} |")
    return "\n".join(lines)


def agreement_table() -> str:
    """The worst relative error of each subject in benchmarks/results/agreement.json."""
    worst: dict[tuple[str, str], dict[str, float]] = {}
    for row in json.loads((MEASURED / "agreement.json").read_text())["rows"]:
        subject, case, figures = row["subject"], row["case"], row["figures"]
        dtype = next((name for name in ("float32", "float64", "bfloat16") if name in case), "")
        if "cosine" in figures or not dtype:
            continue
        if subject == "truncated_svd":
            solver = case.split()[-1]
            subject = f'`truncated_svd`, `solver="{solver}"`'
        for quantity, error in figures.items():
            errors = worst.setdefault((subject, quantity), {})
            errors[dtype] = max(errors.get(dtype, 0.0), error)
    lines = [
        "| worst relative error | | float32 | float64 | bfloat16 input |",
        "|---|---|---|---|---|",
    ]
    for (subject, quantity), errors in worst.items():
        cells = (
            f"{errors[dtype]:.0e}" if dtype in errors else ""
            for dtype in ("float32", "float64", "bfloat16")
        )
        lines.append(f"| {subject} | {quantity} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


@cache
def compared(preset: str) -> Comparison:
    """The comparison of a preset's runs, which several tables are made from."""
    return compare(find_runs([RESULTS / preset]))


def _full_name(method: MethodResult) -> str:
    """A row's name with all its options, which pages tell apart from those of other sets."""
    return "teacher" if method.is_teacher else method.runs[0].row


def mini_table(pair: str) -> str:
    """Every method that results/mini has for a pair of networks, the best first."""
    pairs = compared("mini").pairs
    (methods,) = (one.methods for one in pairs if one.pair == pair)
    rows = tuple(
        (
            Cell(_full_name(method)),
            mean_cell(method.last),
            mean_cell(method.best),
            mean_cell(method.gains, signed=True),
            number_cell(len(method.seeds), "{}"),
        )
        for method in sorted(methods, key=lambda one: (not one.is_teacher, -one.accuracy))
    )
    headings = ("last epoch %", "best epoch %", "gain over the student alone", "seeds")
    return Table(pair, columns("method", *headings), rows).to_markdown()


def summary_table(preset: str) -> str:
    """The methods of `SUMMARY` on every pair of a preset: last epoch in percent."""
    pairs = {
        one.pair: {_full_name(method): method for method in one.methods}
        for one in compared(preset).pairs
    }
    names = sorted(pairs)
    rows = tuple(
        (
            Cell(label),
            *(
                mean_cell(pairs[pair][name].last) if name in pairs[pair] else Cell("")
                for pair in names
            ),
        )
        for name, label in SUMMARY.items()
    )
    return Table(preset, columns("", *names), rows).to_markdown()


def recipe_search_table() -> str:
    """Single runs on a part of the training images, judged on the rest."""
    lines = ["| | epochs | batch | held-out % | test % |", "|---" * 5 + "|"]
    for run in find_runs([RESULTS / "recipe-search"]):
        config, last = run.config, run.records[-1]
        first = f"{config['transfer_epochs']} + " if config["transfer_epochs"] else ""
        cells = (
            run.row,
            f"{first}{config['epochs']}",
            str(config["batch_size"]),
            f"{last.dev_accuracy:.1f}",
            f"{last.test_accuracy:.1f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def tap_gradients_table() -> str:
    """What each gradient sends to each tap, from benchmarks/results/tap-gradients.json."""
    rows = json.loads((MEASURED / "tap-gradients.json").read_text())["rows"]
    lines = [
        "| student | k | tap | positions x channels | exact: norm | poster: of it, cosine | "
        "authors: of it, cosine |",
        "|---" * 7 + "|",
    ]
    taps: dict[tuple[str, int, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        taps.setdefault((row["student"], row["vectors"], row["tap"]), {})[row["gradient"]] = row
    for (student, vectors, tap), by_gradient in taps.items():
        exact = by_gradient["exact"]
        size = f"{exact['positions']} x {exact['channels']}"
        cells = [student, str(vectors), tap, size, f"{exact['norm']:.3f}"]
        for name in ("poster", "authors"):
            one = by_gradient[name]
            angle = "" if one["cosine"] is None else f", {one['cosine']:.2f}"
            cells.append(f"{one['share_of_exact']:.2f}{angle}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parallel_table() -> str:
    """The largest difference of each loss, over clips and stages, by processes and precision."""
    rows = json.loads((MEASURED / "reliability" / "parallel.json").read_text())["rows"]
    columns = sorted({(row["processes"], row["dtype"]) for row in rows}, reverse=True)
    columns.sort(key=lambda column: column[0])
    names = [f"{processes} processes, {dtype}" for processes, dtype in columns]
    lines = ["| loss | clips x stages | " + " | ".join(names) + " |"]
    lines.append("|---" * (len(columns) + 2) + "|")
    for loss in dict.fromkeys(row["loss"] for row in rows):
        own = [row for row in rows if row["loss"] == loss]
        cells = [f"{len({(row['clip'], row['stages']) for row in own})}"]
        for column in columns:
            found = [r["largest"] for r in own if (r["processes"], r["dtype"]) == column]
            cells.append(f"{max(found):.0e}" if found else "")
        lines.append("| " + " | ".join([f"`{loss}`", *cells]) + " |")
    return "\n".join(lines)


def ties_table() -> str:
    """How often an order of the images meets a ReLU that is a toss-up, and what that costs."""
    measured = json.loads((MEASURED / "reliability" / "parallel.json").read_text())["ties"]
    lines = ["| activation | orders of the images | above 1e-6 | the largest |", "|---" * 4 + "|"]
    for activation, smooth in (("ReLU", False), ("SiLU", True)):
        found = [row["largest"] for row in measured if row["smooth"] == smooth]
        above = sum(largest > 1e-6 for largest in found)
        lines.append(f"| {activation} | {len(found)} | {above} | {max(found):.0e} |")
    return "\n".join(lines)


def reliability_table(name: str) -> str:
    """The rows of a file in benchmarks/results/reliability/, with a sum of the kills."""
    rows_key, columns = RELIABILITY[name]
    measured = json.loads((MEASURED / "reliability" / f"{name}.json").read_text())
    rows = list(measured[rows_key])
    if name == "kills":
        keys = [key for key in columns.values() if key != "case"]
        rows.append({"case": "all", **{key: sum(row[key] for row in rows) for key in keys}})
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(_cell(row[key]) for key in columns.values()) + " |" for row in rows]
    packages = measured["environment"]["packages"]
    seed = f", seed {measured['seed']}" if "seed" in measured else ""
    made = f"torch {packages['torch']}, Python {measured['environment']['python']}{seed}."
    return "\n".join([*lines, "", made])


def numbers_table() -> str:
    """What became of the cases of benchmarks/reliability/fuzz.py, and how far off numbers were."""
    measured = json.loads((MEASURED / "reliability" / "numbers.json").read_text())
    columns = {
        "": "kind",
        "cases": "cases",
        "with NaN or infinity": "not finite",
        "finite, forward and backward": "finite",
        "clear error": "error",
        "of them without NaN or infinity": "refused finite",
        "anything else": "failed",
    }
    rows = list(measured["kinds"])
    counted = [key for key in columns.values() if key != "kind"]
    rows.append({"kind": "all", **{key: sum(row[key] for row in rows) for key in counted}})
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(_cell(row[key]) for key in columns.values()) + " |" for row in rows]
    defects, neighbours = measured["orthonormality"], measured["neighbours"]
    ours = {
        dtype: max(defects[f"{dtype}, {solver}"] for solver in ("auto", "gram", "subspace"))
        for dtype in ("float32", "float64")
    }
    gradients = measured["gradients"]
    packages, python = measured["environment"]["packages"], measured["environment"]["python"]
    return "\n".join(
        [
            *lines,
            "",
            "| | checked | worst in float32 | in float64 |",
            "|---|---|---|---|",
            "| `VᵀV` from the identity, an entry | every finite map | "
            f"{ours['float32']:.0e} | {ours['float64']:.0e} |",
            "| the same of `torch.linalg.svd` | every finite map | "
            f"{defects['float32, svd']:.0e} | {defects['float64, svd']:.0e} |",
            "| gradient against the full SVD's in float64, relative | "
            f"{sum(one['checked'] for one in gradients.values()):,} | "
            f"{gradients['float32']['worst']:.0e} | {gradients['float64']['worst']:.0e} |",
            "| a sample's gradient beside bad samples against that without them, relative | "
            f"{neighbours['checked']:,} | {neighbours['worst']:.0g} | {neighbours['worst']:.0g} |",
            "",
            f"Of {measured['decomposed']:,} matrices that subspace iteration was given "
            f"{measured['recomputed']:,} were computed again. torch {packages['torch']}, "
            f"Python {python}, {measured['environment']['threads']} thread, seed "
            f"{measured['seed']}, {measured['seconds'] / 60:.0f} minutes.",
        ]
    )


def _cell(value: object) -> str:
    """A number with its thousands; yes or nothing."""
    if isinstance(value, bool):
        return "SHA-256" if value else ""
    return f"{value:,}" if isinstance(value, int) else str(value)


def networks_markdown() -> str:
    """Parameters and FLOPs of every network beside what the paper's table says."""
    rows = []
    for name in network_names():
        size, published = describe_network(name).profile, published_size(name)
        rows.append(
            (
                Cell(f"`{name}`"),
                millions_cell(size.parameters, digits=2),
                millions_cell(published.parameters, digits=2),
                millions_cell(size.flops),
                millions_cell(published.flops),
            )
        )
    headings = ("parameters", "paper's table", "FLOPs", "paper's table")
    return Table("", columns("network", *headings), tuple(rows)).to_markdown()


def main() -> int:
    """Write, or with --check compare."""
    texts = {ROOT / page: (ROOT / page).read_text() for page in PAGES}
    if "--check" in sys.argv[1:]:
        return int(any(with_tables(text) != text for text in texts.values()))
    for page, text in texts.items():
        page.write_text(with_tables(text))
    for name, title in TITLES.items():
        runs = runs_of(name)
        if runs:
            plot_curves(runs, RESULTS / name / "curves.png", title)
    return 0


if __name__ == "__main__":
    sys.exit(main())
