"""Finished runs as one page: a single HTML file that opens from disk and loads nothing."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from rich.console import Console

from svdistill.errors import ArgumentError, RunError
from svdistill.files import write_atomically
from svdistill.report.contents import Contents
from svdistill.report.gathering import contents_of
from svdistill.report.runs import find_runs


def write_report(
    runs: Sequence[str | Path],
    output: str | Path = "report.html",
    *,
    data: str | None = None,
    console: Console | None = None,
) -> Path:
    """Write finished runs as one HTML page that holds all it shows.

    Nothing is trained. Where weights of a student and of its teacher are there, and the images,
    their feature maps are looked at. Nothing is downloaded, and no code of the runs' own is run.
    The page says what is missing.

    Args:
        runs: run directories, or folders that hold some at any depth.
        output: the page; a file of this name is replaced.
        data: where the images are now, for runs that do not find theirs, such as `parquet:PATH`.
        console: where progress goes; nowhere by default.

    Returns:
        The page's path.

    Raises:
        ArgumentError: data that is nowhere.
        RunError: a path without finished runs, a damaged run, or a page that cannot be written.
    """
    path = Path(output)
    _require_writable(path)
    _require_images(data)
    console = console or Console(quiet=True)
    with console.status("reading runs") as status:
        found = find_runs(runs)
        status.update("drawing figures, timing networks, looking at feature maps")
        page = _render(contents_of(found, data))
    write_atomically(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    return path


def _render(contents: Contents) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("svdistill.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates = files("svdistill.report") / "templates"
    script = "\n" + (templates / "sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(
        page=contents,
        style=(templates / "report.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=f"sha256-{digest}",
        version=version("svdistill"),
    )


def _require_writable(path: Path) -> None:
    """Raise `RunError` now rather than after the work."""
    folder = path.parent
    if path.is_dir():
        got, remedy = "a directory", "name a file, such as report.html"
    elif not folder.is_dir():
        got, remedy = f"no directory {folder}", "make it, or choose another --output"
    elif not os.access(folder, os.W_OK):
        got, remedy = f"a directory that is not writable, {folder}", "choose another --output"
    else:
        return
    raise RunError(str(path), expected="a file that can be written", got=got, remedy=remedy)


def _require_images(data: str | None) -> None:
    """Raise `ArgumentError` where a person says that images are where none are."""
    scheme, _, place = (data or "digits").partition(":")
    if scheme not in ("digits", "hub") and not (place and Path(place).expanduser().exists()):
        raise ArgumentError(
            "data",
            expected="where images lie, such as parquet:PATH",
            got=repr(data),
            remedy="check the path, or leave it out",
        )
