r"""Copy finished runs into a folder that is committed: small, and without this machine's paths.

    python benchmarks/keep_results.py runs/mini results/mini --data parquet:data/cifar100 \
        --weights vgg-teacher mobilenet-teacher vgg-stride/svd-amortised-0

Of each run the configuration, environment, metrics, predictions and summary are kept; of those
named by `--weights`, the network after the last epoch too, in float16. What was kept before and is
not among the runs stays.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

from svdistill.common.files import make_directory, read_json, write_json, write_text
from svdistill.report.runs import dataset_name
from svdistill.runs import load_student
from svdistill.runs.directory import RunDirectory, stored_values
from svdistill.runs.weights import read_card, save_weights


def keep(run: Path, source: Path, target: Path, data: str | None) -> Path:
    """Copy what is known of a run, with its paths under the target and its data under this name."""
    kept = target / run.relative_to(source)
    make_directory(kept)
    values = stored_values(run / "config.yaml") | {"output": str(kept)}
    if data is not None:
        values["data"] = data
    for name in ("teacher", "knowledge"):
        path = values.get(name)
        # A run that was copied from the target names what lies there; any other place is refused.
        if path and not Path(path).is_relative_to(target):
            values[name] = str(target / Path(path).relative_to(source))
    write_text(kept / "config.yaml", yaml.safe_dump(values, sort_keys=False))
    write_json(kept / "summary.json", read_json(run / "summary.json") | {"directory": str(kept)})
    for name in ("environment.json", "metrics.jsonl", "predictions.json", "before_after.json"):
        if (run / name).exists():  # before_after.json is of distilled runs
            write_text(kept / name, (run / name).read_text())
    return kept


def keep_weights(run: Path, kept: Path) -> None:
    """Keep a run's network in float16."""
    weights = RunDirectory(run).student
    card = read_card(weights)
    assert card is not None  # it is a run's own
    save_weights(RunDirectory(kept).student, load_student(run).half(), card)


def main() -> None:
    """Copy, and say what came of the weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--data", help="what the kept configurations name, if not what the runs do")
    parser.add_argument("--weights", nargs="*", default=[], help="runs whose networks are kept")
    options = parser.parse_args()

    finished = sorted(path.parent for path in options.source.rglob("summary.json"))
    names = {str(run.relative_to(options.source)) for run in finished}
    if missing := sorted(set(options.weights) - names):
        parser.error(f"--weights: {', '.join(missing)}: no finished runs in {options.source}")
    data = {dataset_name(stored_values(run / "config.yaml")) for run in finished}
    if options.data is not None and len(data) > 1:
        parser.error(
            f"--data names one data set, and the runs are on {', '.join(sorted(data))}: keep the "
            "folders of each apart"
        )
    for run in finished:
        kept = keep(run, options.source, options.target, options.data)
        if str(run.relative_to(options.source)) in options.weights:
            keep_weights(run, kept)
            print(f"{kept}: {RunDirectory(kept).student.stat().st_size / 1e6:.1f} MB")
    print(f"{len(finished)} runs in {options.target}")


if __name__ == "__main__":
    main()
