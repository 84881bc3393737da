"""The parsers of the commands, and configuration files."""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter

from svdistill.cli import manual
from svdistill.cli.manual import COMMANDS
from svdistill.common import ArgumentError, from_plain, read_yaml, require_no_device

# Before a path in an option such as `parquet:PATH`.
SCHEMES: Final = ("parquet:", "folder:", "tiny_imagenet:", "hf:")

SHOWN: Final = 80


class PlainConfigFile(ActionConfigFile):
    """`--config`: options from a YAML file that is small and has no aliases or deep nesting."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: Any = None) -> None:
        """Read the options, or raise `ArgumentError`."""
        require_usable("config", str(values))
        file = Path(str(values))
        if file.exists():
            try:
                read_yaml(file)
            except (OSError, ValueError) as error:
                raise ArgumentError(
                    f"config {file}",
                    expected="a YAML file with options",
                    got=str(error),
                    remedy="write `option: value` lines, as `--help` lists them",
                ) from error
        super().__call__(parser, cfg, values, option_string)


def require_usable(option: str, value: object) -> None:
    """Raise `ArgumentError` if an option's text is no valid path, or names a pipe or a device.

    Args:
        option: its name.
        value: its value. Of a list each item is checked; values that are not text are accepted.
    """
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, str):
            continue
        place = item
        for scheme in SCHEMES:
            place = place.removeprefix(scheme)
        try:
            from_plain(str, item)
            require_no_device(Path(place).expanduser())
        except (OSError, ValueError, RuntimeError) as error:
            if isinstance(error, PermissionError):
                continue  # reading it raises a clearer error
            reason = error.strerror if isinstance(error, OSError) else str(error)
            shown = item if len(item) <= SHOWN else item[:SHOWN] + "..."
            raise ArgumentError(
                option,
                expected="text that can name a regular file or a directory",
                got=f"{shown!r} ({reason})",
                remedy="choose another name; copy the content of a pipe or a device into a file",
            ) from error


class _ManualFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the line breaks of the examples."""


def build_parser(command: str = "") -> ArgumentParser:
    """Build the parser of all commands, with the options of one.

    Options are fields of dataclasses in rooms that import torch, which takes seconds, so only the
    given command's room is imported.
    """
    parser = _parser("svdistill COMMAND [options]", manual.MANUAL)
    commands = parser.add_subcommands(required=True, dest="command", metavar="COMMAND")
    for name, summary in COMMANDS.items():
        options = COMMAND_PARSERS[name]() if name == command else ArgumentParser()
        commands.add_subcommand(name, options, help=summary)
    return parser


KEEP_MEMORY: Final = (
    "Keep freed memory in the process for the next step: faster on a CPU; `false` returns it to "
    "the system."
)

NETWORK: Final = "`module:attr`, if the run trained a network of your own code."


def _demo_parser() -> ArgumentParser:
    parser = _parser("svdistill demo [options]", manual.DEMO_MANUAL)
    return _with_options(
        parser,
        output=(str, "runs/demo", "Folder for the runs."),
        seeds=(int, 3, "Repetitions of every run."),
    )


def _train_parser() -> ArgumentParser:
    from svdistill.config import TrainConfig

    usage = "svdistill train --output DIR [options]"
    epilog = (manual.TRAIN_EXAMPLES, manual.RUN_FILES)
    return _config_parser(_parser(usage, manual.TRAIN_MANUAL, *epilog), TrainConfig)


def _distill_parser() -> ArgumentParser:
    from svdistill.config import DistillConfig
    from svdistill.losses import losses_text

    usage = "svdistill distill --teacher TEACHER | --knowledge STORE --output DIR [options]"
    epilog = (manual.LOSSES + losses_text(), manual.DISTILL_EXAMPLES, manual.RUN_FILES)
    parser = _config_parser(_parser(usage, manual.DISTILL_MANUAL, *epilog), DistillConfig)
    return _with_options(
        parser,
        seeds=(int | None, None, manual.SEEDS),
        baseline=(bool, False, manual.BASELINE),
        jobs=(
            int | None,
            None,
            "With these, runs at a time; empty for one per core, or three on a GPU.",
        ),
    )


def _cache_parser() -> ArgumentParser:
    from svdistill.config import CacheConfig
    from svdistill.losses import losses_text

    usage = "svdistill cache --teacher TEACHER --views N --output STORE [options]"
    epilog = (manual.LOSSES + losses_text(), manual.CACHE_EXAMPLES)
    return _config_parser(_parser(usage, manual.CACHE_MANUAL, *epilog), CacheConfig)


def _evaluate_parser() -> ArgumentParser:
    parser = _parser("svdistill evaluate RUN [options]", manual.EVALUATE_MANUAL)
    parser.add_argument("run", type=str, help="Run directory or .safetensors file of a run.")
    return _with_options(
        parser,
        data=(str | None, None, "As for `train`."),
        network=(str | None, None, NETWORK),
        device=(str, "auto", "`auto`, `cpu` or `cuda`."),
    )


def _export_parser() -> ArgumentParser:
    usage = "svdistill export RUN [options]"
    parser = _parser(usage, manual.EXPORT_MANUAL, manual.EXPORT_EXAMPLES)
    parser.add_argument("run", type=str, help="Run directory or .safetensors file of a run.")
    output = "The file; an existing one is replaced. Empty for one beside the run's weights."
    data = "Where the test images are now, if not where the run found them; as for `train`."
    return _with_options(
        parser,
        format=(str, "onnx", "`onnx` or `torch`."),
        output=(str | None, None, output),
        data=(str | None, None, data),
        images=(
            int | None,
            None,
            "Test images to compare on; empty for 200, or for 2000 with int8.",
        ),
        include=(str | None, None, "`preprocessing`: the file normalises, and takes uint8 images."),
        precision=(str, "float32", "`float32` or `fp16`."),
        opset=(int | None, None, "Version of ONNX's operators; empty for the exporter's default."),
        quantize=(str | None, None, "`int8`: quantise, calibrated on training images."),
        tolerance=(float, 1.0, "Points of accuracy that int8 may lose on test images."),
        network=(str | None, None, NETWORK),
    )


def _info_parser() -> ArgumentParser:
    parser = _parser("svdistill info [NAME] [options]", manual.INFO_MANUAL)
    name = "A network's name, as for `train`; empty for all of the paper's."
    parser.add_argument("name", type=str, nargs="?", default="", help=name)
    classes = "Number of logits; empty for those of its published weights, or 100."
    side = "Side of an image in pixels; empty for that of its published weights, or 32."
    return _with_options(
        parser,
        num_classes=(int | None, None, classes),
        width=(float, 1.0, "Factor on all channel counts."),
        image_size=(int | None, None, side),
    )


def _predict_parser() -> ArgumentParser:
    usage = "svdistill predict FILE IMAGES... [options]"
    parser = _parser(usage, manual.PREDICT_MANUAL)
    parser.add_argument("file", type=str, help="The .onnx or .pt2 file that `export` wrote.")
    parser.add_argument("images", type=str, nargs="+", help="Image files.")
    parser.add_argument("--top", type=int, default=3, help="Classes to print for each image.")
    return parser


def _reproduce_parser() -> ArgumentParser:
    from svdistill.paper import EXPERIMENTS, ReproduceConfig

    usage = "svdistill reproduce WHAT [options]"
    parser = _parser(usage, manual.REPRODUCE_MANUAL, manual.REPRODUCE_EXAMPLES)
    names = ", ".join(f"`{name}`" for name in EXPERIMENTS)
    parser.add_argument("what", type=str, help=f"One of {names}.")
    parser.add_class_arguments(ReproduceConfig)
    return parser


def _report_parser() -> ArgumentParser:
    usage = "svdistill report RUNS... [options]"
    parser = _parser(usage, manual.REPORT_MANUAL, manual.REPORT_EXAMPLES)
    runs = "Run directories, or folders that contain some at any depth."
    parser.add_argument("runs", type=str, nargs="+", help=runs)
    page = "The page; an existing file is replaced."
    return _with_options(parser, output=(str, "report.html", page))


def _bench_parser() -> ArgumentParser:
    from svdistill.config import BenchConfig

    usage = "svdistill bench WHAT [options]"
    parser = _parser(usage, manual.BENCH_MANUAL, manual.BENCH_EXAMPLES)
    parser.add_argument("what", type=str, help="`svd`, `dfv`, `step` or `growth`.")
    parser.add_class_arguments(BenchConfig)
    return parser


COMMAND_PARSERS: dict[str, Callable[[], ArgumentParser]] = {
    "demo": _demo_parser,
    "train": _train_parser,
    "distill": _distill_parser,
    "cache": _cache_parser,
    "evaluate": _evaluate_parser,
    "export": _export_parser,
    "predict": _predict_parser,
    "info": _info_parser,
    "reproduce": _reproduce_parser,
    "report": _report_parser,
    "bench": _bench_parser,
}


def _config_parser(parser: ArgumentParser, config: type) -> ArgumentParser:
    """Add the options of a command that trains: `--config`, and one for each field."""
    parser.add_argument("--config", action=PlainConfigFile, help="YAML file with options.")
    parser.add_class_arguments(config)
    return _with_options(parser, keep_memory=(bool, True, KEEP_MEMORY))


def _with_options(parser: ArgumentParser, **options: tuple[Any, Any, str]) -> ArgumentParser:
    """Add options by name: type, default and help."""
    for name, (kind, default, text) in options.items():
        parser.add_argument(f"--{name}", type=kind, default=default, help=text)
    return parser


def _parser(usage: str, description: str, *epilog: str) -> ArgumentParser:
    return ArgumentParser(
        prog="svdistill",
        usage=usage,
        description=description,
        epilog="\n".join((*epilog, manual.EXIT_STATUS)),
        formatter_class=_ManualFormatter,
        exit_on_error=False,
    )
