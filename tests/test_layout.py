"""The tests mirror the source: each file is named after a module of its room.

`test_distiller_inputs.py` tests an aspect of `distiller.py`.
"""

import ast
import re
from pathlib import Path

from test_import_direction import FILES, HOUSE, SOURCE, room_of

MODULES = {(room_of(path), path.stem) for path in FILES}
# Of all losses, and of all options.
WHOLE_ROOMS = {("losses", "test_loss_contract"), ("config", "test_config")}

MOST_LINES = 400
MOST_ARGUMENTS = 6
# Public functions whose further arguments are options by keyword, and equations with many tensors.
MORE_ARGUMENTS = {
    *("distiller.__init__", "amortised_clipping.__call__", "gradient_clipping.multitask_backward"),
    *("image_data.load_images", "student.export_student"),
    *("gradients._wide_complement", "batch_norm.global_batch_norm"),
}


def test_a_test_file_is_named_after_the_module_that_it_tests() -> None:
    for room in HOUSE:
        names = [f"test_{module}" for place, module in MODULES if place == room]
        for path in Path(__file__).with_name(room).glob("test_*.py"):
            named = any(f"{path.stem}_".startswith(f"{name}_") for name in names)
            assert named or (room, path.stem) in WHOLE_ROOMS, f"{room}/{path.name}: no such module"


def test_the_files_that_contributors_are_sent_to_are_there() -> None:
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    named = re.findall(rf"`((?:{'|'.join(HOUSE)})/\w+\.py)`", text)
    assert len(named) > 50
    assert [name for name in named if not (SOURCE / name).exists()] == []


def test_a_file_is_read_in_one_sitting() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in FILES}
    assert [path for path, length in lengths.items() if length > MOST_LINES] == []


def test_a_function_has_few_arguments() -> None:
    found = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                if len([one for one in arguments if one.arg != "self"]) > MOST_ARGUMENTS:
                    found.add(f"{path.stem}.{node.name}")
    assert found == MORE_ARGUMENTS
