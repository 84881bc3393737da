"""Errors about options whose values have a wrong type, in the words of the other errors."""

from __future__ import annotations

import re
from typing import Final

from svdistill.common import ArgumentError, require_choice

# What jsonargparse says of an optional option, and of others.
MESSAGES: Final = (
    r"Parser key \"(?P<option>\w+)\": Does not validate against any of the Union subtypes .*?"
    r"Errors: (?P<kinds>.+?) Given value type: .*? Given value: (?P<value>.*)",
    r"Parser key \"(?P<option>\w+)\": Expected an? (?P<kinds>.+?)\. Got value: (?P<value>.*)",
)

KINDS: Final = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list such as [first,second]",
}


def explain_value(line: str, help_command: str) -> str | None:
    """Rewrite a parser's message about a value of a wrong type; None for any other message.

    Args:
        line: the message in one line.
        help_command: the command that lists the options, for the remedy.

    Example:
        >>> kind = "<class 'int'>"
        >>> line = f'Parser key "epochs": Expected a {kind}. Got value: many'
        >>> explain_value(line, "svdistill train --help")
        "epochs: expected an integer, got 'many'; see `svdistill train --help`"
    """
    matches = (re.search(message, line) for message in MESSAGES)
    found = next((match for match in matches if match), None)
    if found is None:
        return None
    option, value, kinds = found["option"], found["value"], found["kinds"]
    names = re.findall(r"<class '(\w+)'>", kinds)
    remedy = f"see `{help_command}`"
    if "NoneType" in names and value.lower() == "none":
        remedy = f"leave out {option} for its default, or write null for an empty value"
    expected = [KINDS[name] for name in names if name in KINDS]
    choices = re.search(r"Literal\[(.*?)\]", kinds)
    if choices and not expected:
        try:
            require_choice(option, value, re.findall(r"'([^']*)'", choices[1]))
        except ArgumentError as error:
            return str(error)
    wanted = " or ".join(expected) or kinds
    return str(ArgumentError(option, expected=wanted, got=repr(value), remedy=remedy))
