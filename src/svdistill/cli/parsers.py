"""Parsers of the commands, from the dataclasses that the commands take."""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from svdistill.cli import manual
from svdistill.cli.config_file import PlainConfigFile


class _ManualFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the examples' line breaks."""


def build_parser(command: str = "") -> ArgumentParser:
    """The parser of all commands, with the options of one.

    Options are the fields of dataclasses in rooms that import torch, which takes seconds: only the
    command that is wanted waits for its own.
    """
    parser = _parser("svdistill COMMAND [options]", manual.MANUAL, manual.EXIT_STATUS)
    commands = parser.add_subcommands(required=True, dest="command", metavar="COMMAND")
    for name, summary in manual.COMMANDS.items():
        options = COMMAND_PARSERS[name]() if name == command else ArgumentParser()
        commands.add_subcommand(name, options, help=summary)
    return parser


def _demo_parser() -> ArgumentParser:
    parser = _parser("svdistill demo [options]", manual.DEMO_MANUAL, manual.EXIT_STATUS)
    parser.add_argument("--output", type=str, default="runs/demo", help="Where the runs go.")
    parser.add_argument("--seeds", type=int, default=3, help="How often everything is repeated.")
    return parser


def _train_parser() -> ArgumentParser:
    from svdistill.training import TrainConfig

    usage = "svdistill train --output DIR [options]"
    return _run_parser(usage, manual.TRAIN_MANUAL, manual.TRAIN_EXAMPLES, TrainConfig)


def _distill_parser() -> ArgumentParser:
    from svdistill.losses.registry import losses_text
    from svdistill.training import DistillConfig

    usage = "svdistill distill --teacher TEACHER | --knowledge STORE --output DIR [options]"
    about = "\n".join((manual.LOSSES + losses_text(), manual.DISTILL_EXAMPLES))
    return _run_parser(usage, manual.DISTILL_MANUAL, about, DistillConfig)


def _cache_parser() -> ArgumentParser:
    from svdistill.losses.registry import losses_text
    from svdistill.training import CacheConfig

    usage = "svdistill cache --teacher TEACHER --views N --output STORE [options]"
    epilog = "\n".join((manual.LOSSES + losses_text(), manual.CACHE_EXAMPLES, manual.EXIT_STATUS))
    return _config_parser(usage, manual.CACHE_MANUAL, epilog, CacheConfig)


def _evaluate_parser() -> ArgumentParser:
    parser = _parser("svdistill evaluate RUN [options]", manual.EVALUATE_MANUAL, manual.EXIT_STATUS)
    parser.add_argument("run", type=str, help="Run directory or .safetensors file of a run.")
    parser.add_argument("--data", type=str | None, default=None, help="As for `train`.")
    network = "`module:attr`, where the run trained a network of your own code."
    parser.add_argument("--network", type=str | None, default=None, help=network)
    parser.add_argument("--device", type=str, default="auto", help="`auto`, `cpu` or `cuda`.")
    return parser


def _export_parser() -> ArgumentParser:
    epilog = "\n".join((manual.EXPORT_EXAMPLES, manual.EXIT_STATUS))
    parser = _parser("svdistill export RUN [options]", manual.EXPORT_MANUAL, epilog)
    parser.add_argument("run", type=str, help="Run directory or .safetensors file of a run.")
    parser.add_argument("--format", type=str, default="onnx", help="`onnx` or `torch`.")
    output = "The file; one of this name is replaced. Empty for one beside the run's weights."
    parser.add_argument("--output", type=str | None, default=None, help=output)
    data = "Where test images are now, if the run does not find its own; as for `train`."
    parser.add_argument("--data", type=str | None, default=None, help=data)
    parser.add_argument("--images", type=int, default=200, help="Test images to compare on.")
    network = "`module:attr`, where the run trained a network of your own code."
    parser.add_argument("--network", type=str | None, default=None, help=network)
    return parser


def _reproduce_parser() -> ArgumentParser:
    from svdistill.experiments import ReproduceConfig

    epilog = "\n".join((manual.REPRODUCE_EXAMPLES, manual.EXIT_STATUS))
    usage = "svdistill reproduce WHAT [options]"
    parser = _parser(usage, manual.REPRODUCE_MANUAL, epilog)
    parser.add_argument("what", type=str, help="`networks`, `multitask`, `dfv` or `large`.")
    parser.add_class_arguments(ReproduceConfig)
    return parser


def _report_parser() -> ArgumentParser:
    epilog = "\n".join((manual.REPORT_EXAMPLES, manual.EXIT_STATUS))
    parser = _parser("svdistill report RUNS... [options]", manual.REPORT_MANUAL, epilog)
    runs = "Run directories, or folders that hold some at any depth."
    parser.add_argument("runs", type=str, nargs="+", help=runs)
    output = "The page; a file of this name is replaced."
    parser.add_argument("--output", type=str, default="report.html", help=output)
    data = "Where images are now, for runs that do not find theirs; as for `train`."
    parser.add_argument("--data", type=str | None, default=None, help=data)
    return parser


def _bench_parser() -> ArgumentParser:
    from svdistill.benchmarks import BenchConfig

    epilog = "\n".join((manual.BENCH_EXAMPLES, manual.EXIT_STATUS))
    parser = _parser("svdistill bench WHAT [options]", manual.BENCH_MANUAL, epilog)
    parser.add_argument("what", type=str, help="`svd`, `dfv` or `step`.")
    parser.add_class_arguments(BenchConfig)
    return parser


def _info_parser() -> ArgumentParser:
    parser = _parser("svdistill info [NAME] [options]", manual.INFO_MANUAL, manual.EXIT_STATUS)
    name = "A network's name, as for `train`; empty for all of the seed's."
    parser.add_argument("name", type=str, nargs="?", default="", help=name)
    classes = "Number of logits; empty for those of its published weights, or 100."
    parser.add_argument("--num_classes", type=int | None, default=None, help=classes)
    parser.add_argument("--width", type=float, default=1.0, help="Factor on all channel counts.")
    side = "Side of an image in pixels; empty for that of its published weights, or 32."
    parser.add_argument("--image_size", type=int | None, default=None, help=side)
    return parser


COMMAND_PARSERS: dict[str, Callable[[], ArgumentParser]] = {
    "demo": _demo_parser,
    "train": _train_parser,
    "distill": _distill_parser,
    "cache": _cache_parser,
    "evaluate": _evaluate_parser,
    "export": _export_parser,
    "info": _info_parser,
    "reproduce": _reproduce_parser,
    "report": _report_parser,
    "bench": _bench_parser,
}


def _run_parser(usage: str, description: str, examples: str, config: type) -> ArgumentParser:
    """The parser of a command that leaves a run directory."""
    epilog = "\n".join((examples, manual.RUN_FILES, manual.EXIT_STATUS))
    return _config_parser(usage, description, epilog, config)


def _config_parser(usage: str, description: str, epilog: str, config: type) -> ArgumentParser:
    """The parser of a command that a dataclass describes: an option for every field."""
    parser = _parser(usage, description, epilog)
    parser.add_argument("--config", action=PlainConfigFile, help="YAML file with options.")
    parser.add_class_arguments(config)
    return parser


def _parser(usage: str, description: str, epilog: str) -> ArgumentParser:
    return ArgumentParser(
        prog="svdistill",
        usage=usage,
        description=description,
        epilog=epilog,
        formatter_class=_ManualFormatter,
        exit_on_error=False,
    )
