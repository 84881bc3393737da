"""YAML from anyone: small, without aliases, and never code."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

from svdistill.files import read_text

# No configuration comes near this, and the parser takes minutes for larger ones.
MOST_BYTES: Final = 1 << 16


def read_yaml(path: Path) -> Any:
    """What a YAML file says, in plain values.

    Raises:
        OSError: it is missing, or cannot be read.
        ValueError: it is larger than 64 KiB, no YAML, nested too deeply, or has aliases.
    """
    try:
        return yaml.load(read_text(path, MOST_BYTES), _WithoutAliases)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())[:200]) from error


class _WithoutAliases(yaml.SafeLoader):
    """Refuses `*name`: no run writes it, and nested ones stand for billions of values."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias (*name), which no configuration needs")
        return super().compose_node(parent, index)
