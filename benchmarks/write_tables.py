"""Write the tables and curves of the committed results into results/, README.md and docs/.

    python benchmarks/write_tables.py          # write
    python benchmarks/write_tables.py --check  # exit 1 if a page says something else

A set of runs is a folder under results/, each run a folder NAME or NAME-SEED in it. In a page, a
table stands between `<!-- table: NAME -->` and `<!-- end -->`: NAME is a set of runs,
`PRESET/PAIR`, `PRESET/summary`, or a name in `made_table`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from reliability_tables import (
    RELIABILITY,
    numbers_table,
    parallel_table,
    reliability_table,
    ties_table,
)
from svdistill.common import Cell, Table, columns, mean_cell, millions_cell, number_cell
from svdistill.losses import titles
from svdistill.networks import describe_network, network_names, published_size
from svdistill.report import (
    MethodResult,
    compare,
    find_runs,
    method_rows,
    plot_curves,
    run_table,
)
from svdistill.report.runs import class_choice
from svdistill.runs import read_summary
from svdistill_benchmarks import (
    DFVResult,
    GrowthResult,
    StepResult,
    SVDResult,
    footnotes,
    result_tables,
)
from svdistill_benchmarks.run import read_result
from svdistill_benchmarks.tables import Result, markdown, summary_table as summary_of_steps

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
MEASURED = ROOT / "benchmarks" / "results"
PAGES = (
    *("README.md", "docs/speed.md", "docs/findings.md", "docs/all_runs.md", "docs/reliability.md"),
    *("docs/parallel.md", "docs/networks.md", "docs/accuracy.md", "docs/choosing.md"),
)
BENCHMARKS: dict[str, type[Result]] = {
    "step": StepResult,
    "svd": SVDResult,
    "svd-trained": SVDResult,
    "dfv": DFVResult,
    "growth": GrowthResult,
}
GRAM_SOFT = "Gram of positions + soft target"

# Rows in the order in which they are read, by the run's folder.
SETS = {
    "demo": {
        "teacher": "teacher (1,078 labels)",
        "student": "student alone",
        "soft-target": "soft target",
        "fsp": "FSP",
        "svd": "SVD",
        "gram-of-positions-dist": "Gram of positions + DIST",
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
        "dist": "DIST",
        "dkd": "DKD",
        "svd-adapters": "SVD, adapters",
        "svd-adapters-soft-target": "SVD, adapters + soft target",
        "position-svd": "position SVD",
        "position-svd-soft-target": "position SVD + soft target",
        "position-gram-grid4-soft-target": GRAM_SOFT,
        "position-gram-soft-target": f"{GRAM_SOFT}, 1 : 1 : 2.7",
        "position-gram-dist": "Gram of positions + DIST",
    },
    "photos": {
        "teacher": "teacher, plain",
        "plain": "student alone, plain",
        "distilled-plain": "student, plain, distilled",
        "recipe": "student alone, recipe",
        "distilled": "student, recipe, distilled",
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
    "tutorial": {
        "teacher": "timm:resnet18, the teacher",
        "student": "timm:mobilenetv3_small_050 alone",
        "soft-target": "soft target",
        "position-gram-soft-target": GRAM_SOFT,
        "position-gram-dist": "Gram of positions + DIST",
        "position-gram-soft-target-dist": f"{GRAM_SOFT} + DIST",
    },
    "few-labels": {
        "student": "student alone",
        "soft-target-labelled": "soft target, labelled images",
        "svd-labelled": "SVD, labelled images",
        "svd-soft-target-labelled": "SVD + soft target, labelled images",
        "dist-labelled": "DIST, labelled images",
        "position-gram-tenth-soft-target-labelled": f"{GRAM_SOFT}, labelled images",
        "position-gram-soft-target-labelled": f"{GRAM_SOFT}, 1 : 1 : 2.7, labelled images",
        "position-gram-dist-labelled": "Gram of positions + DIST, labelled images",
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


# Rows of the tables of all pairs, by their names in the report.
SUMMARY = {
    "teacher": "teacher",
    "student alone": "student alone",
    "FSP, 2-stage": "FSP (2017), 2-stage",
    "soft target": "soft target (2015)",
    "DIST": "DIST (2022)",
    "DKD": "DKD (2022)",
    "standardised logits": "standardised logits (2024)",
    "cosines of positions + soft target": "cosines of positions (2019) + soft target",
    "SVD": "SVD, as in the paper",
    "position SVD + soft target, k = 4": "position SVD + soft target",
    "Gram of positions + soft target, grid 4": "Gram of positions + soft target",
    "Gram of positions + DIST": "**Gram of positions + DIST: the default**",
}

# The rows of README's table, and what it says of the presets' sizes.
SIZES = {"full": ", all classes", "mini": ", a fifth"}
HEADLINE = {
    name: SUMMARY[name]
    for name in ("teacher", "student alone", "soft target", "DIST", "Gram of positions + DIST")
}

TENTH = "weights 0.1 : 1 : 0.9"

# Rows of the ablation on VGG_stride, by their names in the report: one property changed at a time.
ABLATION = {
    f"{GRAM_SOFT}, grid 4, {TENTH}": "**Gram matrices of 4 x 4 positions, beside soft targets**",
    f"{GRAM_SOFT}, grid 8, {TENTH}": "of 8 x 8 positions",
    f"{GRAM_SOFT}, every position, {TENTH}": "of all positions",
    "position SVD + soft target, k = 1": "of all positions, cut to the leading vector",
    "position SVD + soft target, k = 2": "of all positions, cut to two vectors",
    "position SVD + soft target, k = 4": "of all positions, cut to four vectors",
    "position SVD + soft target, k = 8": "of all positions, cut to eight vectors",
    "attention transfer + soft target": "their diagonals alone (attention transfer)",
    "cosines of positions + soft target": "cosines of 8 x 8 positions",
    "similarity of images + soft target": "similarities of images",
    "Gram of positions": "without soft targets",
    "position SVD": "cut to four vectors, without soft targets",
    "soft target": "soft targets alone",
    f"{GRAM_SOFT}, grid 4, taps stage1, {TENTH}": "the first stage alone",
    f"{GRAM_SOFT}, grid 4, taps stage2, {TENTH}": "the second stage alone",
    f"{GRAM_SOFT}, grid 4, taps stage3, {TENTH}": "the third stage alone",
    f"{GRAM_SOFT}, grid 4, taps stage4, {TENTH}": "the fourth stage alone",
    f"{GRAM_SOFT}, grid 4, weights 0.1 : 0.3 : 0.9": "weight of positions 0.3",
    f"{GRAM_SOFT}, grid 4, weights 0.1 : 3 : 0.9": "weight of positions 3",
    f"{GRAM_SOFT}, grid 4": "weights 1 : 1 : 3",
    "Gram of positions + DIST": "DIST instead of soft targets: the default",
}

# Students of a teacher of other images: rows by the runs' folders, columns by where these lie.
DOMAINS = {
    "student": "student alone",
    "fsp-2-stage": "FSP, 2-stage",
    "svd-amortised": "SVD, amortised",
    "position-svd": "position SVD",
    "position-gram": "**Gram of positions**",
}
STUDENTS_OF_OTHERS = {
    "vgg-stride": "50 other classes",
    "vgg-stride-tenth": "50 other classes, a tenth of the labels",
    "vgg-stride-tiny-imagenet-40": "Tiny-ImageNet",
    "vgg-stride-tiny-imagenet-40-tenth": "Tiny-ImageNet, a tenth of the labels",
}

# What is said of a run in results/full-recipe whose folder ends in "-spread".
SPREAD = ", by the teacher's spread"

# Rows of the search among settings, by the runs' folders: NAME-taskWEIGHT-wWEIGHT-SEED.
SETTING = re.compile(r"(.+)-task([\d.]+)-w([\d.]+)-\d+")

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
        return f"<!-- table: {found[1]} -->\n\n{made_table(found[1])}\n\n<!-- end -->"

    return re.sub(r"<!-- table: (\S+) -->.*?<!-- end -->", table, text, flags=re.DOTALL)


def made_table(name: str) -> str:
    """The Markdown of a table by its name."""
    makers: dict[str, Callable[[], str]] = {
        **{one: partial(benchmark_tables, one) for one in BENCHMARKS},
        "step-targets": step_targets,
        "step-summary": step_summary,
        "agreement": agreement_table,
        "networks": networks_markdown,
        "recipe-search": recipe_search_table,
        "full-recipe": full_recipe_table,
        "mini-bf16": bf16_table,
        "mini-search": search_table,
        "headline": partial(summary_table, SIZES, HEADLINE),
        "ablation": ablation_table,
        "domains": domains_table,
        "tap-gradients": tap_gradients_table,
        "parallel": parallel_table,
        "parallel-ties": ties_table,
        "numbers": numbers_table,
        "gpu-work": gpu_work_table,
        **{one: partial(reliability_table, one) for one in RELIABILITY},
    }
    if name in makers:
        return makers[name]()
    if name.endswith("/summary"):
        return summary_table({name.removesuffix("/summary"): ""}, SUMMARY)
    if "/" in name:
        return pair_table(*name.split("/"))
    runs = [(label, read_summary(path)) for label, path in runs_of(name)]
    return run_table(method_rows(runs)).to_markdown()


def benchmark_tables(name: str) -> str:
    """All tables of a benchmark's result, each under its title, and where it was measured."""
    result = read_result(MEASURED / f"{name}.json", BENCHMARKS[name])
    made = [f"**{table.title}**\n\n{table.to_markdown()}" for table in result_tables(result)]
    return "\n\n".join([*made, *footnotes(result)])


def step_targets() -> str:
    """What the rows of benchmarks/results/step.json were to cost, and what they do."""
    result = read_result(MEASURED / "step.json", StepResult)
    rows = []
    for name, targets in STEP_TARGETS.items():
        measured = (table for table in result.tables if not table.keeps_memory)
        for table, target in zip(measured, targets, strict=True):
            (ratio,) = (row.over_floor.median for row in table.rows if row.name == name)
            rows.append((name, table.teacher, f"{target:.2f}", f"{ratio:.2f}"))
    return markdown(("", "teacher", "to be at most", "measured"), rows)


def step_summary() -> str:
    """Some rows of benchmarks/results/step.json over a plain student's step."""
    return summary_of_steps(read_result(MEASURED / "step.json", StepResult)).to_markdown()


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
    dtypes = ("float32", "float64", "bfloat16")
    rows = [
        (subject, quantity, *(f"{errors[one]:.0e}" if one in errors else "" for one in dtypes))
        for (subject, quantity), errors in worst.items()
    ]
    return markdown(("worst relative error", "", "float32", "float64", "bfloat16 input"), rows)


@cache
def methods_by_name(preset: str) -> dict[str, dict[str, MethodResult]]:
    """For each pair of networks of a preset, its methods by name; several tables are of these."""
    pairs = compare(find_runs([RESULTS / preset])).pairs
    title_of = {pair.pair: pair.title for pair in pairs}
    for pair in pairs:
        if title_of[pair.pair] != pair.title:  # one of the two would be in no table
            raise ValueError(
                f"results/{preset}: expected runs of {pair.pair} on one data set, got "
                f"{pair.title} and {title_of[pair.pair]}; keep one of them in another folder"
            )
    return {one.pair: {method.name: method for method in one.methods} for one in pairs}


def pair_table(preset: str, pair: str) -> str:
    """Every method that a preset's results have for a pair of networks, the best first.

    Where the runs learned all classes, as the paper's, its figures stand beside ours.
    """
    methods = methods_by_name(preset)[pair]
    compared = learned_all_classes(methods)
    rows = []
    for method in sorted(methods.values(), key=lambda one: (not one.is_teacher, -one.accuracy)):
        cells = (mean_cell(method.last), mean_cell(method.best))
        gain, seeds = mean_cell(method.gains, signed=True), number_cell(len(method.seeds), "{}")
        paper = (number_cell(method.published), number_cell(method.published_gain, "{:+.2f}"))
        rows.append((Cell(method.name), *cells, gain, seeds, *(paper if compared else ())))
    headings = ("last epoch %", "best epoch %", "gain over the student alone", "seeds")
    of_paper = ("the paper's %", "the paper's gain") if compared else ()
    return Table(pair, columns("method", *headings, *of_paper), tuple(rows)).to_markdown()


def summary_table(presets: Mapping[str, str], labels: Mapping[str, str]) -> str:
    """Methods on every pair of some presets: last epoch in percent, without empty rows.

    Where the runs learned all classes, as the paper's, its figures stand beside ours.

    Args:
        presets: what is added to the names of a preset's pairs in the heading, by the preset.
        labels: the rows' labels, by the methods' names in the report.
    """
    shown: dict[str, dict[str, Cell]] = {}  # cells by the method's name, by the column's heading
    for preset, added in presets.items():
        for pair, methods in sorted(methods_by_name(preset).items()):
            column = f"{pair}{added}"
            shown[column] = {name: mean_cell(one.last) for name, one in methods.items()}
            if learned_all_classes(methods):
                shown[f"{column}, the paper"] = {
                    name: number_cell(one.published)
                    for name, one in methods.items()
                    if one.published is not None
                }
    rows = tuple(
        (Cell(label), *(cells.get(name, Cell("")) for cells in shown.values()))
        for name, label in labels.items()
        if any(name in cells for cells in shown.values())
    )
    return Table("", columns("", *shown), rows).to_markdown()


def learned_all_classes(methods: dict[str, MethodResult]) -> bool:
    """Whether the runs of a pair are of all classes of their data set, as the paper's are."""
    return all(class_choice(method.config) == "all classes" for method in methods.values())


def ablation_table() -> str:
    """The rows of `ABLATION` that results/mini has of VGG_stride: last epoch in percent."""
    methods = methods_by_name("mini")["VGG_stride"]
    rows = tuple(
        (Cell(label), mean_cell(methods[name].last), number_cell(len(methods[name].seeds), "{}"))
        for name, label in ABLATION.items()
        if name in methods
    )
    return Table("", columns("", "last epoch %", "seeds"), rows).to_markdown()


def domains_table() -> str:
    """The rows of `DOMAINS` in results/domains: last epoch in percent, mean over the seeds."""
    rows = []
    for method, label in DOMAINS.items():
        found = [
            (RESULTS / "domains" / pair).glob(f"{method}-[0-9]") for pair in STUDENTS_OF_OTHERS
        ]
        means = [mean_cell([read_summary(run).last_accuracy for run in runs]) for runs in found]
        rows.append((Cell(label), *means))
    return Table("", columns("", *STUDENTS_OF_OTHERS.values()), tuple(rows)).to_markdown()


def recipe_search_table() -> str:
    """Single runs on a part of the training images, judged on the rest."""
    rows = []
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
        rows.append(cells)
    return markdown(("", "epochs", "batch", "held-out %", "test %"), rows)


def full_recipe_table() -> str:
    """Runs of eight epochs on all classes, the best first: what differs, and what came of it."""
    rows = []
    runs = find_runs([RESULTS / "full-recipe"])
    for run in sorted(runs, key=lambda run: -run.records[-1].test_accuracy):
        config, last = run.config, run.records[-1]
        cells = (
            " + ".join(titles(config["loss"])) + SPREAD * run.path.name.endswith("-spread"),
            "of the network" if config["dropout"] is None else f"{config['dropout']:g}",
            f"{config['learning_rate']:g}",
            f"{config['max_grad_norm']:g}",
            f"{config['soft_target_weight'] or config['transfer_weight']:g}",
            f"{last.test_accuracy:.1f}",
            f"{last.test_loss:.2f}",
        )
        rows.append(cells)
    settings = ("dropout", "learning rate", "bound on the norm", "weight of the loss on logits")
    return markdown(("", *settings, "test %", "test loss"), rows)


def bf16_table() -> str:
    """VGG_stride in float32 beside bf16, from the same first weights and views."""
    methods = {"student": "student alone", "position-gram-grid4-soft-target": GRAM_SOFT}
    folders = {"float32": RESULTS / "mini" / "vgg-stride", "bf16": RESULTS / "mini-bf16"}
    runs = [
        (f"{label}, {precision}", read_summary(path))
        for name, label in methods.items()
        for precision, folder in folders.items()
        for path in sorted(folder.glob(f"{name}-[0-9]"))
    ]
    return run_table(method_rows(runs)).to_markdown()


def search_table() -> str:
    """Each loss at four settings: accuracy on held-out images after the last epoch, in percent."""
    tried: dict[str, dict[tuple[float, float], float]] = {}
    for run in find_runs([RESULTS / "mini-search"]):
        found, accuracy = SETTING.fullmatch(run.path.name), run.records[-1].dev_accuracy
        if found is not None and accuracy is not None:
            label = " + ".join(titles(run.config["loss"]))
            tried.setdefault(label, {})[float(found[2]), float(found[3])] = accuracy
    rows = []
    for label, settings in sorted(tried.items(), key=lambda row: -max(row[1].values())):
        best, own = max(settings.values()), min(weight for _, weight in settings)
        weights = (own, round(3 * own, 2))
        accuracies = [settings.get((task, weight)) for task in (0.1, 1.0) for weight in weights]
        cells = ("" if accuracy is None else f"{accuracy:.2f}" for accuracy in accuracies)
        rows.append((label, *(f"**{cell}**" if cell == f"{best:.2f}" else cell for cell in cells)))
    columns = ("labels 0.1", "0.1, loss threefold", "labels 1", "1, loss threefold")
    return markdown(("", *columns), rows)


def tap_gradients_table() -> str:
    """What each gradient sends to each tap, from benchmarks/results/tap-gradients.json."""
    measured = json.loads((MEASURED / "tap-gradients.json").read_text())["rows"]
    rows = []
    taps: dict[tuple[str, int, str], dict[str, dict[str, Any]]] = {}
    for row in measured:
        taps.setdefault((row["student"], row["vectors"], row["tap"]), {})[row["gradient"]] = row
    for (student, vectors, tap), by_gradient in taps.items():
        exact = by_gradient["exact"]
        size = f"{exact['positions']} x {exact['channels']}"
        cells = [student, str(vectors), tap, size, f"{exact['norm']:.3f}"]
        for name in ("poster", "authors"):
            one = by_gradient[name]
            angle = "" if one["cosine"] is None else f", {one['cosine']:.2f}"
            cells.append(f"{one['share_of_exact']:.2f}{angle}")
        rows.append(cells)
    headings = ("student", "k", "tap", "positions x channels", "exact: norm")
    return markdown((*headings, "poster: of it, cosine", "authors: of it, cosine"), rows)


def gpu_work_table() -> str:
    """What every method asks of a GPU, from benchmarks/results/gpu-work.json."""
    rows = []
    for pair, methods in json.loads((MEASURED / "gpu-work.json").read_text())["pairs"].items():
        for method, found in methods.items():
            kernels = list(found["kernels"].values())
            parts = ", ".join(map(str, kernels))
            moved = sum(found["bytes"].values()) / 1e6
            factorisations = str(sum(found["factorisations"].values()))
            cells = (f"{sum(kernels):,}: {parts}", factorisations, f"{moved:,.0f}")
            rows.append((pair, method, *cells, f"{found['floor'] / 1e6:,.0f}"))
    headings = ("kernels: teacher, student, gradient", "factorisations", "MB", "floor MB")
    return markdown(("networks", "losses", *headings), rows)


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
