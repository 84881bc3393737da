"""Words as people type them, and mistakes as one line with a remedy."""

from __future__ import annotations

import re

from svdistill.cli.manual import COMMANDS
from svdistill.cli.parsers import COMMAND_PARSERS
from svdistill.errors import nearest

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
