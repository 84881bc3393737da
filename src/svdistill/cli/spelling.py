"""Words as people type them, and mistakes as one line with a remedy."""

from __future__ import annotations

import re

from svdistill.cli.manual import COMMANDS
from svdistill.cli.parsers import COMMAND_PARSERS
from svdistill.errors import nearest

BARE = ("--resume", "--dry_run")


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
    remedy = nearest(unknown[0], options) if unknown else f"see `svdistill {command} --help`"
    return f"{line}; {remedy}"


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
