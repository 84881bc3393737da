"""The command line: thin, each command calls one function that is public in Python too."""

from __future__ import annotations

import re
import sys
import warnings
from argparse import ArgumentError as UsageError
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter, Namespace
from rich.console import Console

from svdistill.errors import SVDistillError, nearest

COMMANDS = {
    "demo": "see a student learn from its teacher, on digits",
    "train": "train a network on labelled images",
    "distill": "train a student with its teacher's knowledge",
    "evaluate": "accuracy of a trained network",
    "info": "a network's stages, parameters and FLOPs",
}
MANUAL = """\
Knowledge distillation by singular value decomposition: a small network learns from a big one by
relating its own feature maps as the big one relates its own.

A first look, on digits, in under three minutes:
  svdistill demo

The usual way:
  svdistill train   --network vgg_teacher --data parquet:cifar100 --output runs/teacher
  svdistill distill --network vgg_student --data parquet:cifar100 --teacher runs/teacher \\
                    --output runs/student
  svdistill evaluate runs/student
"""
RUN_FILES = """\
files in the run directory:
  config.yaml               the options, to run again with --config
  environment.json          machine and versions
  metrics.jsonl             one line an epoch
  student.safetensors       weights after the last epoch
  student-best.safetensors  weights after the best epoch, by the dev split if there is one
  checkpoint.pt             to --resume from; removed when the run is finished
  tensorboard/              for `tensorboard --logdir`
  summary.json              what came out; its presence marks a finished run
"""
EXIT_STATUS = """\
exit status:
  0 done   2 bad input, or a run that cannot go on: one line says what to do   130 interrupted
"""
TRAIN_MANUAL = """\
Train a network of the seed on labelled images, and leave a run directory. The result is a
teacher for `svdistill distill`, or the student alone to compare with.

Options come from flags, from a YAML file (--config), or both; the later one counts.
"""
TRAIN_EXAMPLES = """\
examples:
  svdistill train --network mobilenet_teacher --data parquet:cifar100 --output runs/teacher
  svdistill train --network vgg_student --width 0.5 --epochs 30 --schedule one_cycle \\
                  --learning_rate 0.03 --output runs/short
  svdistill train --config runs/short/config.yaml --seed 1 --output runs/short-1
"""
DISTILL_MANUAL = """\
Train a student on labelled images and on its teacher's knowledge, and leave a run directory.

The teacher is a run directory, a .safetensors file, or `module:attr` of your own code. With
--loss svd both networks' stages are decomposed, and the student learns to relate its leading
singular vectors as its teacher does; tapped stages need the same number of channels.

Options come from flags, from a YAML file (--config), or both; the later one counts.
"""
DISTILL_EXAMPLES = """\
examples:
  svdistill distill --teacher runs/teacher --network mobilenet_student --data parquet:cifar100 \\
                    --output runs/svd
  svdistill distill --teacher runs/teacher --loss soft_target --clip none --task_weight 0.1 \\
                    --transfer_weight 0.9 --network mobilenet_student --output runs/soft
  svdistill distill --teacher my_package.nets:teacher --teacher_taps layer1,layer2 \\
                    --student_taps stage1,stage2 --network vgg_student --output runs/own
"""
EVALUATE_MANUAL = """\
Accuracy and loss of a trained network on the test split. Without --data, on the data that the
run was trained for.
"""
INFO_MANUAL = """\
Stages, tap shapes, parameters and FLOPs (2 x multiply-adds) of a network, next to what the
seed's table says. Without a name, all networks.
"""
DEMO_MANUAL = """\
Teacher, student alone, soft target, FSP and SVD on scikit-learn's digits: one table. Nothing is
downloaded, two CPU cores are enough, and the runs stay on disk.
"""


class _ManualFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the examples' line breaks."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: words after `svdistill`; those of the process by default.

    Returns:
        The exit status: 0, 2 for bad input, 130 when interrupted.
    """
    words = _spell(list(sys.argv[1:] if arguments is None else arguments))
    warnings.showwarning = _show_warning
    parser = build_parser()
    if not words:
        parser.print_help()
        return 0
    try:
        options = parser.parse_args(words)
        getattr(_Commands, options.command)(options[options.command])
    except UsageError as error:
        return _fail(_explain(str(error), words))
    except SVDistillError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _fail("interrupted; the last whole epoch is saved, go on with --resume", status=130)
    return 0


def build_parser() -> ArgumentParser:
    """The parser of all commands and their options."""
    parser = _parser("svdistill COMMAND [options]", MANUAL, EXIT_STATUS)
    commands = parser.add_subcommands(required=True, dest="command", metavar="COMMAND")
    for name, summary in COMMANDS.items():
        commands.add_subcommand(name, _COMMAND_PARSERS[name](), help=summary)
    return parser


def _demo_parser() -> ArgumentParser:
    parser = _parser("svdistill demo [options]", DEMO_MANUAL, EXIT_STATUS)
    parser.add_argument("--output", type=str, default="runs/demo", help="Where the runs go.")
    parser.add_argument("--seeds", type=int, default=3, help="How often everything is repeated.")
    return parser


def _train_parser() -> ArgumentParser:
    from svdistill.training import TrainConfig

    epilog = "\n".join((TRAIN_EXAMPLES, RUN_FILES, EXIT_STATUS))
    parser = _parser("svdistill train --output DIR [options]", TRAIN_MANUAL, epilog)
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file with options.")
    parser.add_class_arguments(TrainConfig)
    return parser


def _distill_parser() -> ArgumentParser:
    from svdistill.training import DistillConfig

    epilog = "\n".join((DISTILL_EXAMPLES, RUN_FILES, EXIT_STATUS))
    usage = "svdistill distill --teacher TEACHER --output DIR [options]"
    parser = _parser(usage, DISTILL_MANUAL, epilog)
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file with options.")
    parser.add_class_arguments(DistillConfig)
    return parser


def _evaluate_parser() -> ArgumentParser:
    parser = _parser("svdistill evaluate RUN [options]", EVALUATE_MANUAL, EXIT_STATUS)
    parser.add_argument("run", type=str, help="Run directory or .safetensors file of a run.")
    parser.add_argument("--data", type=str | None, default=None, help="As for `train`.")
    parser.add_argument("--device", type=str, default="auto", help="`auto`, `cpu` or `cuda`.")
    return parser


def _info_parser() -> ArgumentParser:
    parser = _parser("svdistill info [NAME] [options]", INFO_MANUAL, EXIT_STATUS)
    parser.add_argument("name", type=str, nargs="?", default="", help="A network's name.")
    parser.add_argument("--num_classes", type=int, default=100, help="Number of logits.")
    parser.add_argument("--width", type=float, default=1.0, help="Factor on all channel counts.")
    parser.add_argument("--image_size", type=int, default=32, help="Side of an image in pixels.")
    return parser


_COMMAND_PARSERS: dict[str, Callable[[], ArgumentParser]] = {
    "demo": _demo_parser,
    "train": _train_parser,
    "distill": _distill_parser,
    "evaluate": _evaluate_parser,
    "info": _info_parser,
}


class _Commands:
    """One method a command: imports what it needs, calls one function, prints what came."""

    @staticmethod
    def demo(options: Namespace) -> None:
        from svdistill.experiments import demo

        demo(options.output, seeds=options.seeds, console=Console())

    @staticmethod
    def train(options: Namespace) -> None:
        from svdistill.training import TrainConfig, train
        from svdistill.training.progress import BarReporter

        _print_summary(train(TrainConfig(**_fields(options)), BarReporter()))

    @staticmethod
    def distill(options: Namespace) -> None:
        from svdistill.training import DistillConfig, distill
        from svdistill.training.progress import BarReporter

        _print_summary(distill(DistillConfig(**_fields(options)), BarReporter()))

    @staticmethod
    def evaluate(options: Namespace) -> None:
        from svdistill.training import evaluate

        evaluation = evaluate(options.run, options.data, device=options.device)
        print(
            f"accuracy {evaluation.accuracy:.2f} %   loss {evaluation.loss:.4f}   "
            f"{evaluation.images} images"
        )

    @staticmethod
    def info(options: Namespace) -> None:
        from svdistill.networks import describe_network, network_names
        from svdistill.report import network_table, networks_table

        setting = (options.num_classes, options.width, options.image_size)
        if options.name:
            Console().print(network_table(describe_network(options.name, *setting)))
        else:
            described = [describe_network(name, *setting) for name in network_names()]
            Console().print(networks_table(described))


def _print_summary(summary: Any) -> None:
    print(
        f"{summary.network}: {summary.last_accuracy:.2f} % after the last epoch, "
        f"{summary.best_accuracy:.2f} % after the best ({summary.best_epoch + 1}, by "
        f"{summary.best_by}); {summary.parameters:,} parameters, {summary.flops / 1e6:.1f}M FLOPs\n"
        f"{summary.directory}"
    )


def _fields(options: Namespace) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "config"}


def _parser(usage: str, description: str, epilog: str) -> ArgumentParser:
    return ArgumentParser(
        prog="svdistill",
        usage=usage,
        description=description,
        epilog=epilog,
        formatter_class=_ManualFormatter,
        exit_on_error=False,
    )


def _spell(words: list[str]) -> list[str]:
    """Accept `--learning-rate` for `--learning_rate`, `-o` for `--output`, a bare `--resume`."""
    spelled = []
    for place, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option == "-o":
            option = "--output"
        elif option.startswith("--"):
            option = "--" + option[2:].replace("-", "_")
        following = words[place + 1] if place + 1 < len(words) else ""
        if option == "--resume" and not equals and following not in ("true", "false"):
            equals, value = "=", "true"
        spelled.append(option + equals + value)
    return spelled


def _explain(message: str, words: list[str]) -> str:
    """A parser's message in one line, with the option that a mistyped one is close to."""
    command = words[0]
    line = " ".join(message.split()).replace(f"{command}.", "--")
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
    remedy = nearest(unknown[0], options) if unknown else f"see `svdistill {command} --help`"
    return f"{line}; {remedy}"


def _plain(kind: str) -> str:
    """A type as a person writes it."""
    return re.sub(r"<class '(\w+)'>|typing\.Literal", lambda found: found[1] or "one of ", kind)


def _options_of(command: str) -> list[str]:
    """The long options of a command."""
    manual = _COMMAND_PARSERS[command]().format_help()
    return sorted(set(re.findall(r"^  (--\w+)", manual, re.MULTILINE)))


def _fail(message: str, status: int = 2) -> int:
    print(f"svdistill: {message}", file=sys.stderr)
    return status


def _show_warning(message: Warning | str, *_where: object, **_more: object) -> None:
    """Warnings as one line, without the place in the code."""
    print(f"svdistill: warning: {message}", file=sys.stderr)
