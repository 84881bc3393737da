"""Imports run one way through the house: a room imports only from rooms above it in this list."""

import ast
from pathlib import Path

import svdistill

HOUSE = [
    "errors",
    "terminal",
    "files",
    "locking",
    "plain_values",
    "plain_yaml",
    "timing",
    "cores",
    "user_code",
    "logits",
    "launching",
    "parallel",
    "linalg",
    "losses",
    "taps",
    "adapters",
    "frozen_teacher",
    "multitask",
    "watching",
    "distiller",
    "networks",
    "data",
    "knowledge_store",
    "training",
    "report",
    "experiments",
    "benchmarks",
    "export",
    "cli",
    "__main__",
]
SOURCE = Path(svdistill.__file__).parent


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imported_rooms(path: Path) -> set[str]:
    """Rooms that a file imports, inside functions too."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            modules = [node.module or ""]
        for module in modules:
            parts = module.split(".")
            if parts[0] == "svdistill":
                assert len(parts) > 1, f"{path}: import a room, not the whole package"
                rooms.add(parts[1])
    return rooms


def test_every_file_belongs_to_a_room() -> None:
    rooms = {room_of(path) for path in SOURCE.rglob("*.py")} - {"__init__"}
    assert rooms <= set(HOUSE), f"rooms that the house does not list: {rooms - set(HOUSE)}"


def test_imports_run_one_way() -> None:
    checked = 0
    for path in SOURCE.rglob("*.py"):
        room = room_of(path)
        if room == "__init__":
            continue
        allowed = set(HOUSE[: HOUSE.index(room) + 1])
        backward = imported_rooms(path) - allowed
        assert not backward, f"{path.relative_to(SOURCE)} imports from below: {backward}"
        checked += 1
    assert checked > 10
