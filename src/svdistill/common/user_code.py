"""The user's own code, by `module:attr`: of networks and of losses."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from svdistill.common.errors import ArgumentError, nearest


def import_attribute(spec: str, argument: str) -> Any:
    """Import an attribute of a module; the current directory is searched first.

    Args:
        spec: `module:attr`, e.g. `"my_package.nets:resnet"`.
        argument: what an error message names.

    Raises:
        ArgumentError: the module cannot be imported, or has no such attribute.

    Example:
        >>> import_attribute("torch.nn:Identity", "network")
        <class 'torch.nn.modules.linear.Identity'>
    """
    module_name, _, attribute = spec.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the user's module may fail in any way
        raise ArgumentError(
            argument,
            expected=f"a module {module_name!r} that can be imported",
            got=f"{type(error).__name__}: {error}",
            remedy="check the name, the current directory and PYTHONPATH",
        ) from error
    finally:
        sys.path.remove(here)
    if not hasattr(module, attribute):
        raise ArgumentError(
            argument,
            expected=f"an attribute of module {module_name}",
            got=repr(attribute),
            remedy=nearest(attribute, (name for name in vars(module) if not name.startswith("_"))),
        )
    return getattr(module, attribute)
