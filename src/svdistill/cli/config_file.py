"""Options looked through before anything reads them: `--config FILE`, and names of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from jsonargparse import ActionConfigFile

from svdistill.errors import ArgumentError
from svdistill.files import require_no_device
from svdistill.plain_values import from_plain
from svdistill.plain_yaml import read_yaml

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
