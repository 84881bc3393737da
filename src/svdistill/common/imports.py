"""Imports by name: optional packages, and the user's own code as `module:attr`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from svdistill.common.errors import ArgumentError, in_short, nearest


def require_package(module: str, extra: str) -> ModuleType:
    """Import a module of an optional package.

    Args:
        module: its name, such as `"timm"` or `"torchvision.models"`.
        extra: svdistill's extra that installs it.

    Returns:
        The module.

    Raises:
        ArgumentError: it is not installed, or its import fails; the remedy is one command.

    Example:
        >>> require_package("no_such_module", extra="zoo")
        Traceback (most recent call last):
        svdistill.common.errors.ArgumentError: no_such_module: expected an installed package, \
got none; run pip install 'svdistill[zoo]'
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except Exception as error:  # a broken installation may raise anything
        absent = isinstance(error, ModuleNotFoundError) and error.name in (module, package)
        raise ArgumentError(
            package,
            expected="an installed package" if absent else "a package that can be imported",
            got="none" if absent else in_short(error),
            remedy=f"run pip install 'svdistill[{extra}]'",
        ) from error


def import_attribute(spec: str, argument: str) -> Any:
    """Import an attribute of a module; the current directory is searched first.

    Args:
        spec: `module:attr`, e.g. `"my_package.nets:resnet"`.
        argument: the name in an error message.

    Raises:
        ArgumentError: the module cannot be imported, or lacks the attribute.

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
            got=in_short(error),
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
