"""Lists the licences of what is installed, and fails on one that is not on the list below."""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, distributions

ALLOWED = (
    *("apache", "bsd", "mit", "isc", "psf", "python software foundation", "python-2.0"),
    *("mpl-2.0", "mpl 2.0", "mozilla public license 2.0", "zlib", "hpnd", "unlicense", "cc0"),
    *("0bsd", "cnri-python", "bsl-1.0", "public domain"),
)


def licence_of(package: Distribution) -> str:
    """What a package's metadata says: an SPDX expression, else its classifiers, else its text."""
    about = package.metadata
    if expression := about.get("License-Expression"):
        return str(expression)
    classifiers = about.get_all("Classifier") or []
    named = [text.rpartition(" :: ")[2] for text in classifiers if text.startswith("License :: ")]
    named = [name for name in named if name not in ("OSI Approved", "DFSG approved")]
    return ", ".join(named) or (about.get("License") or "").strip().partition("\n")[0]


def is_allowed(licence: str) -> bool:
    """Whether all licences that a text joins by "and" are allowed, and one of those by "or"."""
    terms = re.split(r"\bAND\b|,|;", licence.replace("(", " ").replace(")", " "))
    return all(
        any(name in choice.lower() for choice in re.split(r"\bOR\b", term) for name in ALLOWED)
        for term in terms
    )


def main() -> int:
    """Print a line for each package; 1 if one is not allowed."""
    refused = 0
    for package in sorted(distributions(), key=lambda found: found.name.lower()):
        licence = licence_of(package)
        allowed = is_allowed(licence)
        refused += not allowed
        print(f"{'  ' if allowed else '! '}{package.name:28} {licence or 'says nothing'}")
    print(f"{refused} packages with a licence that is not on the list")
    return int(refused > 0)


if __name__ == "__main__":
    sys.exit(main())
