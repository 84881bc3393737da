"""Asks the public advisories about what requirements.lock pins; needs pip-audit and a network."""

from __future__ import annotations

import json
import subprocess
import sys

COMMAND = (
    *(sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "--progress-spinner", "off"),
    *("--format", "json", "-r", "requirements.lock"),
)


def main() -> int:
    """Print what is known; 1 if anything is, 0 with a warning where nobody could be asked."""
    done = subprocess.run(COMMAND, capture_output=True, text=True)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        print(f"advisories were NOT checked: {reason[:300]}", file=sys.stderr)
        return 0
    weak = [package for package in packages if package.get("vulns")]
    for package in weak:
        names = ", ".join(found["id"] for found in package["vulns"])
        print(f"! {package['name']} {package['version']}: {names}")
    print(f"{len(packages)} packages, {len(weak)} with known weaknesses")
    return int(bool(weak))


if __name__ == "__main__":
    sys.exit(main())
