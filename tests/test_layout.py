"""The tests mirror the source: each file is named after a module of its room.

`test_distiller_inputs.py` tests an aspect of `distiller.py`.
"""

from pathlib import Path

from test_import_direction import FILES, HOUSE, room_of

MODULES = {(room_of(path), path.stem) for path in FILES}
# Of all losses, and of all options.
WHOLE_ROOMS = {("losses", "test_loss_contract"), ("config", "test_config")}


def test_a_test_file_is_named_after_the_module_that_it_tests() -> None:
    for room in HOUSE:
        names = [f"test_{module}" for place, module in MODULES if place == room]
        for path in Path(__file__).with_name(room).glob("test_*.py"):
            named = any(f"{path.stem}_".startswith(f"{name}_") for name in names)
            assert named or (room, path.stem) in WHOLE_ROOMS, f"{room}/{path.name}: no such module"
