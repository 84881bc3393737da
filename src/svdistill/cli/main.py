"""The commands: each calls one public function and prints its result."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from argparse import ArgumentError as UsageError
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from svdistill.cli.parsers import build_parser, explain, require_usable, spell
from svdistill.cli.processes import (
    TOGETHER,
    finished_run,
    is_speaker,
    lasting_output,
    leave,
    left,
    say,
    terminable,
    text_logs,
)
from svdistill.common import (
    SVDistillError,
    TextConsole,
    first_synonym,
    keep_memory,
    launched_size,
    shown,
)

RESULTS = ("evaluate", "info", "predict")  # commands whose only result is what they print

PAGE = "report.html"  # name of the page in a run directory

UNREAD = 141  # the exit status that a shell reports for a command ended by SIGPIPE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command of the command line.

    Args:
        arguments: the words after `svdistill`; by default those of `sys.argv`.

    Returns:
        The exit status: 0 for success, 2 for bad input or a run that cannot continue, 130 when
        interrupted, 143 when terminated, 129 when the terminal hung up, 141 when a result could
        not be printed.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)
    with text_logs(), lasting_output() as output:
        status = _main(typed)
        output.flush()
    return UNREAD if output.lost and not status and typed[:1] and typed[0] in RESULTS else status


def _main(typed: list[str]) -> int:
    with warnings.catch_warnings(), terminable(), contextlib.ExitStack() as stack:
        warnings.showwarning = _show_warning
        if not is_speaker():
            nowhere = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        try:
            return _run(spell(typed))
        except KeyboardInterrupt as interrupt:
            message, status = left(interrupt, typed)
            return _fail(message, interrupt, status)


def _run(words: list[str]) -> int:
    parser = build_parser(words[0] if words else "")
    if not words:
        parser.print_help()
        return 0
    try:
        options = parser.parse_args(words)
        if launched_size() > 1 and options.command not in TOGETHER:
            from svdistill.parallel import require_alone

            require_alone(options.command)
        for name, value in _fields(options[options.command]).items():
            if name != "method":  # names joined by commas, which may exceed a file name's length
                require_usable(name, value)
        getattr(_Commands, options.command)(options[options.command])
        leave()
    except UsageError as error:
        return _fail(explain(str(error), words), error)
    except SVDistillError as error:
        return _fail(str(error), error)
    except Exception as error:
        trouble = _trouble(error)
        if trouble is None:
            raise
        return _fail(trouble, error)
    return 0


class _Commands:
    """One method per command; each imports what it needs, so that other commands start quickly."""

    @staticmethod
    def demo(options: Namespace) -> None:
        from svdistill.paper import demo

        demo(options.output, seeds=options.seeds, console=TextConsole())

    @staticmethod
    def train(options: Namespace) -> None:
        from svdistill.config import TrainConfig
        from svdistill.training import BarReporter, train

        _print_summary(train(TrainConfig(**_training_fields(options)), BarReporter()))

    @staticmethod
    def distill(options: Namespace) -> None:
        from svdistill.config import DistillConfig
        from svdistill.training import BarReporter, distill

        fields = _training_fields(options)
        repeated = {name: fields.pop(name) for name in ("seeds", "baseline", "jobs")}
        # Not by truth: 0 is refused there.
        if any(value is not None and value is not False for value in repeated.values()):
            _compare_seeds(DistillConfig(**fields), options.keep_memory, repeated)
            return
        summary = distill(DistillConfig(**fields), BarReporter())
        with finished_run():
            _print_summary(summary)
            if is_speaker():
                _show_gain(summary.directory)

    @staticmethod
    def cache(options: Namespace) -> None:
        from svdistill.config import CacheConfig
        from svdistill.training import BarReporter, cache_knowledge

        _print_store(cache_knowledge(CacheConfig(**_training_fields(options)), BarReporter()))

    @staticmethod
    def evaluate(options: Namespace) -> None:
        from svdistill.training import evaluate, own_network

        network = own_network(options.run, options.network) if options.network else None
        evaluation = evaluate(options.run, options.data, network=network, device=options.device)
        _show(
            f"accuracy {evaluation.accuracy:.2f} %   loss {evaluation.loss:.4f}   "
            f"{evaluation.images} images"
        )

    @staticmethod
    def export(options: Namespace) -> None:
        from dataclasses import fields

        from svdistill.export import ExportOptions, export_notes, export_student, export_table

        console = TextConsole()
        with console.status("exporting and comparing"):
            report = export_student(
                options.run,
                options.format,
                options.output,
                data=options.data,
                images=options.images,
                network=options.network,
                options=ExportOptions(**{f.name: options[f.name] for f in fields(ExportOptions)}),
            )
        console.print(export_table(report))
        _show(*export_notes(report), report.path)
        if (Path(options.run) / PAGE).exists():
            _write_page(options.run)

    @staticmethod
    def predict(options: Namespace) -> None:
        from svdistill.export import predict

        for prediction in predict(options.file, options.images, top=options.top):
            classes = (
                f"{first_synonym(name)} {100 * share:.1f} %" for name, share in prediction.classes
            )
            _show("   ".join((str(prediction.path), *classes)))

    @staticmethod
    def info(options: Namespace) -> None:
        from svdistill.networks import describe_network, network_names
        from svdistill.report import network_table, networks_table

        setting = (options.num_classes, options.width, options.image_size)
        if options.name:
            TextConsole().print(network_table(describe_network(options.name, *setting)))
        else:
            described = [describe_network(name, *setting) for name in network_names()]
            TextConsole().print(networks_table(described))

    @staticmethod
    def reproduce(options: Namespace) -> None:
        from svdistill.paper import ReproduceConfig, reproduce

        fields = _fields(options)
        what = fields.pop("what")
        reproduce(what, ReproduceConfig(**fields), console=TextConsole())

    @staticmethod
    def report(options: Namespace) -> None:
        from svdistill.report import write_report

        _show(write_report(options.runs, options.output, console=TextConsole()))

    @staticmethod
    def bench(options: Namespace) -> None:
        from svdistill.config import BenchConfig
        from svdistill_benchmarks import footnotes, result_tables, run_bench

        fields = _fields(options)
        what = fields.pop("what")
        console = TextConsole()
        with console.status("measuring, which may take minutes"):
            result, path = run_bench(what, BenchConfig(**fields))
        for table in result_tables(result):
            console.print(table)
        _show(*footnotes(result), path)


def _show(*lines: object) -> None:
    print(*(shown(str(line)) for line in lines), sep="\n")


def _print_summary(summary: Any) -> None:
    skipped = f"; {summary.skipped_steps} steps skipped in fp16" if summary.skipped_steps else ""
    _show(
        f"{summary.network}: {summary.last_accuracy:.2f} % after the last epoch, "
        f"{summary.best_accuracy:.2f} % after the best ({summary.best_epoch}, by "
        f"{summary.best_by}); {summary.parameters:,} parameters, {summary.flops / 1e6:.1f}M FLOPs"
        f"{skipped}\n"
        f"{summary.directory}"
    )


def _compare_seeds(config: Any, keep_memory: bool, repeated: dict[str, Any]) -> None:
    from svdistill.paper import compare_seeds
    from svdistill.parallel import require_alone

    require_alone("distill --seeds")
    compare_seeds(config, keep_memory=keep_memory, console=TextConsole(), **repeated)


def _show_gain(run: str) -> None:
    """Print a finished run's student beside its teacher, and write the run's report page."""
    from svdistill.report import before_after_table
    from svdistill.training import read_before_after

    figures = read_before_after(run)
    if figures is not None:
        TextConsole().print(before_after_table(figures))
    _write_page(run)


def _write_page(run: str) -> None:
    from svdistill.report import write_report

    try:
        _show(write_report([run], Path(run) / PAGE))
    except SVDistillError as error:
        warnings.warn(f"no report was written: {error}", stacklevel=2)


def _print_store(store: Any) -> None:
    views = store.manifest.views
    size = len(store) * views * store.bytes_per_image
    accuracy = store.manifest.teacher_accuracy
    teacher = "teacher of other classes" if accuracy is None else f"teacher {accuracy:.2f} %"
    _show(
        f"{len(store):,} images, {views} views each, {store.bytes_per_image:,} bytes per image and "
        f"view, {size / 1e6:,.1f} MB; {teacher}\n{store.path}"
    )


def _trouble(error: Exception) -> str | None:
    """Return a message for the user if memory, a disk, a worker or a file caused the error.

    Returns None for any other error, which is then raised with its traceback.
    """
    from svdistill.training import as_machine_error

    trouble = as_machine_error(error)
    if trouble is None and isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: expected a file that can be used, got {error.strerror}; check it"
    return None if trouble is None else str(trouble)


def _fields(options: Namespace) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "config"}


def _training_fields(options: Namespace) -> dict[str, Any]:
    """Return the configuration's fields, and apply `--keep_memory`, which is not one of them."""
    fields = _fields(options)
    if fields.pop("keep_memory"):
        keep_memory()
    return fields


def _fail(message: str, error: BaseException, status: int = 2) -> int:
    say(f"svdistill: {' '.join(message.split())}", error)  # on one line
    return status


def _show_warning(message: Warning | str, *_where: object, **_more: object) -> None:
    """Print a warning on one line, without its place in the code."""
    if is_speaker():
        print(shown(f"svdistill: warning: {message}"), file=sys.stderr)
