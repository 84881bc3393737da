"""The parsers of the commands, configuration files, and other spellings of options."""

from __future__ import annotations

import re
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter

from svdistill.cli import manual
from svdistill.cli.manual import COMMANDS
from svdistill.cli.wrong_values import explain_value
from svdistill.common import ArgumentError, from_plain, nearest, read_yaml, require_no_device

# Prefixes of a path in an option, as in `parquet:PATH`.
SCHEMES: Final = ("parquet:", "folder:", "tiny_imagenet:", "hf:")

SHOWN: Final = 80


class PlainConfigFile(ActionConfigFile):
    """The option `--config`: a small YAML file of options, without aliases or deep nesting."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: Any = None) -> None:
        """Read the options, or raise `ArgumentError`."""
        require_usable("config", str(values))
        file = Path(str(values))
        try:
            content = read_yaml(file)
        except FileNotFoundError:
            raise _not_options(file, "nothing at this path", "check the path") from None
        except IsADirectoryError:
            remedy = "name a file in it; that of a run is config.yaml"
            raise _not_options(file, "a folder", remedy) from None
        except (OSError, ValueError) as error:
            raise _not_options(file, str(error)) from error
        if content is None:
            raise _not_options(file, "an empty file")
        if not isinstance(content, dict):
            raise _not_options(file, "a list" if isinstance(content, list) else "text alone")
        options = _options_in(parser)
        for key in content:
            if f"--{key}" not in options:
                raise _not_options(file, f"the unknown option {key!r}", _meant(str(key), options))
        super().__call__(parser, cfg, values, option_string)


def _not_options(
    file: Path, got: str, remedy: str = "write `option: value` lines, as `--help` lists them"
) -> ArgumentError:
    return ArgumentError(
        f"config {file}", expected="a YAML file with options", got=got, remedy=remedy
    )


def require_usable(option: str, value: object) -> None:
    """Raise `ArgumentError` if an option's text is not a valid path, or names a pipe or a device.

    Each item of a list is checked. Values that are not text are accepted.
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
                continue  # reading the file later raises a clearer error
            reason = error.strerror if isinstance(error, OSError) else str(error)
            shown = item if len(item) <= SHOWN else item[:SHOWN] + "..."
            raise ArgumentError(
                option,
                expected="text that can name a regular file or a directory",
                got=f"{shown!r} ({reason})",
                remedy="choose another name; copy the content of a pipe or a device into a file",
            ) from error


class _ManualFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Help formatter that keeps the line breaks of the manual's texts and examples."""


def build_parser(command: str = "") -> ArgumentParser:
    """Build the parser of all commands, with the options of `command` only.

    Options are fields of dataclasses whose packages import torch, which takes seconds, so only
    those of the given command are imported.
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
            "With these, runs at a time; empty for one per core, or three on a GPU. On a CPU each "
            "gets an equal share of the cores as threads, whatever OMP_NUM_THREADS says.",
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


BARE = ("--resume", "--dry_run", "--baseline")

# For each option, its names in other programs.
OTHER_WORDS = {
    "batch_size": "bs",
    "data": "dataset data_dir data_path",
    "device": "gpu cuda",
    "epochs": "num_epochs",
    "image_size": "img_size resolution size",
    "learning_rate": "lr",
    "max_grad_norm": "clip_grad grad_clip",
    "network": "arch model student",
    "num_vectors": "k rank",
    "optimizer": "opt",
    "output": "out outdir output_dir save_dir",
    "precision": "dtype amp fp16 bf16",
    "schedule": "scheduler lr_schedule lr_scheduler",
    "seed": "random_seed",
    "soft_target_weight": "kd_weight",
    "teacher": "teacher_model",
    "temperature": "tau",
    "transfer_weight": "alpha lambda",
    "weight_decay": "wd",
    "weights": "pretrained init",
    "workers": "num_workers n_workers",
}


def spell(words: list[str]) -> list[str]:
    """Rewrite other spellings of options to those of the parser.

    Accepted are dashes as in `--learning-rate`, `-o` for `--output`, `--student` for `--network`
    in `distill`, and flags such as `--resume` without a value.
    """
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
    """Rewrite a parser's message to one line that suggests an option in place of a mistyped one."""
    command = words[0]
    line = re.sub(rf"\b{command}\.(\w+)", lambda found: _shown(found[1], command), message)
    line = " ".join(line.split())
    if command not in COMMANDS:
        return f"{line}; {nearest(command, COMMANDS)}"
    page = f"svdistill {command} --help"
    wrong_value = explain_value(line, page)
    if wrong_value is not None:
        return wrong_value
    written = [word.partition("=")[0] for word in words if word.startswith("--")]
    options = _options_of(command)
    unknown = [word for word in written if word not in options]
    remedy = _meant(unknown[0], options) if unknown else f"see `{page}`"
    return f"{line}; {remedy}"


def _meant(word: str, options: list[str]) -> str:
    """Suggest options in place of an unknown one.

    The first of these rules that finds any decides: the word is the option's name in other
    programs, its letters without underscores, its initials, its beginning, or spelled similarly.
    """
    name = word.lstrip("-").replace("-", "_").lower()
    known = [option[2:] for option in options]
    flat = name.replace("_", "")
    found = (
        [option for option in known if name in OTHER_WORDS.get(option, "").split()]
        or [option for option in known if option.replace("_", "") == flat]
        or [option for option in known if "".join(p[0] for p in option.split("_")) == flat]
        or [option for option in known if len(flat) > 2 and option.startswith(name)]
    )
    if found:
        return "did you mean " + " or ".join(repr(f"--{option}") for option in found[:3]) + "?"
    return nearest(word, options)


def _shown(name: str, command: str) -> str:
    """Write an option with its dashes and a positional argument in capitals, as the manual does."""
    return f"--{name}" if f"--{name}" in _options_of(command) else name.upper()


def _options_of(command: str) -> list[str]:
    """The long options of a command."""
    return _options_in(COMMAND_PARSERS[command]())


def _options_in(parser: ArgumentParser) -> list[str]:
    return sorted(set(re.findall(r"^  (--\w+)", parser.format_help(), re.MULTILINE)))
