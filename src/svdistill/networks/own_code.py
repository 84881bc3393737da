"""Networks of the user's own, by `module:attr`."""

from __future__ import annotations

import inspect

from torch import nn

from svdistill.common import ArgumentError, import_attribute


def import_network(spec: str, num_classes: int, argument: str = "teacher") -> nn.Module:
    """Import a network, or a function that builds one, from the user's own code.

    The current directory is searched first, as `python -m` does.

    Args:
        spec: `module:attr`, e.g. `"my_package.nets:resnet"`. The attribute is an `nn.Module`, or a
            callable that returns one; it is given `num_classes` if it has such a parameter.
        num_classes: the classes of the data.
        argument: what an error message names.

    Returns:
        The network.

    Raises:
        ArgumentError: the module or attribute does not exist, fails, or is no network.

    Example:
        >>> import_network("torch.nn:Identity", num_classes=10)
        Identity()
    """
    found = import_attribute(spec, argument)
    if callable(found) and not isinstance(found, nn.Module):
        try:
            takes_classes = "num_classes" in inspect.signature(found).parameters
            found = found(num_classes=num_classes) if takes_classes else found()
        except Exception as error:  # so may the function
            raise ArgumentError(
                argument,
                expected=f"{spec} to build a network from num_classes or from nothing",
                got=f"{type(error).__name__}: {error}",
                remedy="wrap it in a function of your own that needs no other argument",
            ) from error
    if not isinstance(found, nn.Module):
        raise ArgumentError(
            argument,
            expected="an nn.Module, or a function that returns one",
            got=type(found).__name__,
            remedy=f"let {spec} be one",
        )
    return found
