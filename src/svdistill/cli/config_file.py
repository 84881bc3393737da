"""`--config FILE`: looked through before the parser, which would take any YAML for its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile

from svdistill.errors import ArgumentError
from svdistill.plain_yaml import read_yaml


class PlainConfigFile(ActionConfigFile):
    """Options from a YAML file that is small and has neither aliases nor deep nesting."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: Any = None) -> None:
        """Take the options of a file, or raise `ArgumentError`."""
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
