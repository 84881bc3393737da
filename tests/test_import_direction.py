"""Imports run one way through the house, through the faces of its rooms, and without circles."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import svdistill

# A room imports only from those before it.
HOUSE = [
    *("common", "parallel", "linalg", "losses", "taps", "networks", "distillation", "data"),
    *("store", "config", "runs", "training", "export", "report", "paper", "cli"),
]
SOURCE = Path(svdistill.__file__).parent
FILES = sorted(path for path in SOURCE.rglob("*.py") if path.parent != SOURCE)


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0]


def imports(path: Path) -> Iterator[list[str]]:
    """The dotted parts of each module of ours that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            folder = SOURCE.parent.joinpath(*(node.module or "").split("."))
            own = folder == path.parent
            modules = [a.name for a in node.names if own and (folder / f"{a.name}.py").exists()]
            names = [f"{node.module}.{name}" for name in modules] or [node.module or ""]
        else:
            continue
        yield from (name.split(".") for name in names if name.split(".")[0] == "svdistill")


def test_every_file_belongs_to_a_room() -> None:
    assert {room_of(path) for path in FILES} == set(HOUSE)


def test_imports_run_one_way() -> None:
    for path in FILES:
        before = HOUSE[: HOUSE.index(room_of(path)) + 1]
        for parts in imports(path):
            assert len(parts) > 1, f"{path}: import a room, not the whole package"
            assert parts[1] in before, f"{path.relative_to(SOURCE)} imports {'.'.join(parts)}"


def test_nobody_reaches_past_the_face_of_a_room() -> None:
    for path in FILES:
        for parts in imports(path):
            if parts[1] != room_of(path):
                assert len(parts) == 2, f"{path.relative_to(SOURCE)} imports {'.'.join(parts)}"
            elif path.name != "__init__.py":
                assert len(parts) == 3, f"{path.relative_to(SOURCE)} imports its own room's face"


def test_no_circles() -> None:
    graph = {
        ".".join(path.relative_to(SOURCE).with_suffix("").parts): {
            ".".join(parts[1:]) for parts in imports(path)
        }
        for path in FILES
        if path.name != "__init__.py"
    }
    assert len(list(TopologicalSorter(graph).static_order())) >= len(graph) > 80
