"""Other spellings of options that are accepted, and suggestions for misspelt ones."""

from __future__ import annotations

import re

from svdistill.cli.manual import COMMANDS
from svdistill.cli.parsers import COMMAND_PARSERS
from svdistill.common import nearest

BARE = ("--resume", "--dry_run", "--baseline")

# Names of these options in other programs.
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
    """Return a parser's message on one line, with the option closest to a mistyped one."""
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
    """Suggest options for an unknown one.

    In this order: the names in other programs, the same letters without underscores, the initials,
    the beginning, and a similar spelling.
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


def _plain(kind: str) -> str:
    """Shorten the name of a type in a message."""
    return re.sub(r"<class '(\w+)'>|typing\.Literal", lambda found: found[1] or "one of ", kind)


def _options_of(command: str) -> list[str]:
    """The long options of a command."""
    page = COMMAND_PARSERS[command]().format_help()
    return sorted(set(re.findall(r"^  (--\w+)", page, re.MULTILINE)))
