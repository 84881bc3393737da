"""The parsers of all commands, configuration files, and help for misspelt options."""

from __future__ import annotations

import re
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter

from svdistill.cli import manual
from svdistill.cli.manual import COMMANDS
from svdistill.common import ArgumentError, from_plain, nearest, read_yaml, require_no_device

# Before a path in an option such as `parquet:PATH`.
SCHEMES: Final = ("parquet:", "folder:", "tiny_imagenet:", "hf:")

SHOWN: Final = 80


class PlainConfigFile(ActionConfigFile):
    """Options from a YAML file that is small and has neither aliases nor deep nesting."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: Any = None) -> None:
        """Take the options of a file, or raise `ArgumentError`."""
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
    """Raise `ArgumentError` where an option's text can name no file, or names a pipe or a device.

    Args:
        option: its name.
        value: of the option; a list is looked through, what is no text is left alone.
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
                continue  # the reader says what it may not do
            reason = error.strerror if isinstance(error, OSError) else str(error)
            shown = item if len(item) <= SHOWN else item[:SHOWN] + "..."
            raise ArgumentError(
                option,
                expected="text that can name a regular file or a directory",
                got=f"{shown!r} ({reason})",
                remedy="choose another name; copy what a pipe or a device gives into a file",
            ) from error


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
    from svdistill.config import TrainConfig

    usage = "svdistill train --output DIR [options]"
    return _run_parser(usage, manual.TRAIN_MANUAL, manual.TRAIN_EXAMPLES, TrainConfig)


def _distill_parser() -> ArgumentParser:
    from svdistill.config import DistillConfig
    from svdistill.losses import losses_text

    usage = "svdistill distill --teacher TEACHER | --knowledge STORE --output DIR [options]"
    about = "\n".join((manual.LOSSES + losses_text(), manual.DISTILL_EXAMPLES))
    return _run_parser(usage, manual.DISTILL_MANUAL, about, DistillConfig)


def _cache_parser() -> ArgumentParser:
    from svdistill.config import CacheConfig
    from svdistill.losses import losses_text

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
    images = "Test images to compare on; empty for 200, or for 2000 with --quantize."
    parser.add_argument("--images", type=int | None, default=None, help=images)
    include = "`preprocessing`: the file scales and normalises, and takes uint8 images."
    parser.add_argument("--include", type=str | None, default=None, help=include)
    parser.add_argument("--precision", type=str, default="float32", help="`float32` or `fp16`.")
    opset = "Version of ONNX's operators; empty for the exporter's default."
    parser.add_argument("--opset", type=int | None, default=None, help=opset)
    quantize = "`int8`: quantise an ONNX file, calibrated on training images."
    parser.add_argument("--quantize", type=str | None, default=None, help=quantize)
    tolerance = "Points of accuracy that int8 may lose on test images."
    parser.add_argument("--tolerance", type=float, default=1.0, help=tolerance)
    network = "`module:attr`, where the run trained a network of your own code."
    parser.add_argument("--network", type=str | None, default=None, help=network)
    return parser


def _predict_parser() -> ArgumentParser:
    usage = "svdistill predict FILE IMAGES... [options]"
    parser = _parser(usage, manual.PREDICT_MANUAL, manual.EXIT_STATUS)
    parser.add_argument("file", type=str, help="The .onnx or .pt2 file that `export` wrote.")
    parser.add_argument("images", type=str, nargs="+", help="Image files.")
    parser.add_argument("--top", type=int, default=3, help="Classes to print for each image.")
    return parser


def _reproduce_parser() -> ArgumentParser:
    from svdistill.paper import ReproduceConfig

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
    from svdistill.config import BenchConfig

    epilog = "\n".join((manual.BENCH_EXAMPLES, manual.EXIT_STATUS))
    parser = _parser("svdistill bench WHAT [options]", manual.BENCH_MANUAL, epilog)
    parser.add_argument("what", type=str, help="`svd`, `dfv` or `step`.")
    parser.add_class_arguments(BenchConfig)
    return parser


def _info_parser() -> ArgumentParser:
    parser = _parser("svdistill info [NAME] [options]", manual.INFO_MANUAL, manual.EXIT_STATUS)
    name = "A network's name, as for `train`; empty for all of the paper's."
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
    "predict": _predict_parser,
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


BARE = ("--resume", "--dry_run")

# What other programs call our options.
OTHER_WORDS = {
    "lr": "learning_rate",
    "bs": "batch_size",
    "wd": "weight_decay",
    "arch": "network",
    "model": "network",
    "student": "network",
    "teacher_model": "teacher",
    "opt": "optimizer",
    "scheduler": "schedule",
    "lr_schedule": "schedule",
    "lr_scheduler": "schedule",
    "dataset": "data",
    "data_dir": "data",
    "data_path": "data",
    "out": "output",
    "outdir": "output",
    "output_dir": "output",
    "save_dir": "output",
    "num_epochs": "epochs",
    "num_workers": "workers",
    "n_workers": "workers",
    "random_seed": "seed",
    "img_size": "image_size",
    "resolution": "image_size",
    "size": "image_size",
    "dtype": "precision",
    "amp": "precision",
    "fp16": "precision",
    "bf16": "precision",
    "clip_grad": "max_grad_norm",
    "grad_clip": "max_grad_norm",
    "pretrained": "weights",
    "init": "weights",
    "alpha": "transfer_weight",
    "lambda": "transfer_weight",
    "kd_weight": "soft_target_weight",
    "tau": "temperature",
    "gpu": "device",
    "cuda": "device",
    "k": "num_vectors",
    "rank": "num_vectors",
}


def spell(words: list[str]) -> list[str]:
    """Accept `--learning-rate`, `-o` for `--output`, `--student` for `--network`, `--resume`."""
    spelled = []
    for place, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option == "-o":
            option = "--output"
        elif option.startswith("--"):
            option = "--" + option[2:].replace("-", "_")
        if option == "--student" and words[0] == "distill":
            option = "--network"
        following = words[place + 1] if place + 1 < len(words) else ""
        if option in BARE and not equals and following not in ("true", "false"):
            equals, value = "=", "true"
        spelled.append(option + equals + value)
    return spelled


def explain(message: str, words: list[str]) -> str:
    """A parser's message in one line, with the option that a mistyped one is close to."""
    command = words[0]
    line = re.sub(rf"\b{command}\.(\w+)", lambda found: _shown(found[1], command), message)
    line = " ".join(line.split())
    line = re.sub(
        r"Parser key \"(\w+)\": Expected an? (.+)\. Got value: (.*)",
        lambda found: f"{found[1]}: expected {_plain(found[2])}, got {found[3]}",
        line,
    )
    if command not in COMMANDS:
        return f"{line}; {nearest(command, COMMANDS)}"
    written = [word.partition("=")[0] for word in words if word.startswith("--")]
    written += ["--" + word for word in re.findall(r"does not accept option '(\w+)'", line)]
    options = _options_of(command)
    unknown = [word for word in written if word not in options]
    remedy = _meant(unknown[0], options) if unknown else f"see `svdistill {command} --help`"
    return f"{line}; {remedy}"


def _meant(word: str, options: list[str]) -> str:
    """Which option a word stands for that is none, as a remedy.

    By the words of other programs, then the option that it is but for underscores, then the one
    whose words' initials or beginnings it has, then those that are spelled alike.
    """
    name = word.lstrip("-").replace("-", "_").lower()
    known = [option[2:] for option in options]
    flat = name.replace("_", "")
    found = [OTHER_WORDS[name]] if OTHER_WORDS.get(name) in known else []
    found = found or [option for option in known if option.replace("_", "") == flat]
    found = found or [
        option for option in known if "".join(part[0] for part in option.split("_")) == flat
    ]
    found = found or [option for option in known if len(flat) > 2 and option.startswith(name)]
    if found:
        return "did you mean " + " or ".join(repr(f"--{option}") for option in found[:3]) + "?"
    return nearest(word, options)


def _shown(name: str, command: str) -> str:
    """An option with its dashes; what has none is in capitals, as in the manual."""
    return f"--{name}" if f"--{name}" in _options_of(command) else name.upper()


def _plain(kind: str) -> str:
    """A type as a person writes it."""
    return re.sub(r"<class '(\w+)'>|typing\.Literal", lambda found: found[1] or "one of ", kind)


def _options_of(command: str) -> list[str]:
    """The long options of a command."""
    manual = COMMAND_PARSERS[command]().format_help()
    return sorted(set(re.findall(r"^  (--\w+)", manual, re.MULTILINE)))
