"""How many cores this process may use."""

from __future__ import annotations


def available_cores() -> int:
    """The cores that this process is bound to, as many of them as its container may use.

    `os.cpu_count` counts the machine's.

    Example:
        >>> available_cores() >= 1
        True
    """
    from joblib import cpu_count  # slow to import

    count: int = cpu_count()
    return count
