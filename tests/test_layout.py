"""The tests mirror the source: each file is named after a module of its room.

`test_distiller_inputs.py` tests an aspect of `distiller.py`.
"""

import re
from pathlib import Path

from test_import_direction import FILES, HOUSE, SOURCE, room_of

MODULES = {(room_of(path), path.stem) for path in FILES}
# Of all losses, and of all options.
WHOLE_ROOMS = {("losses", "test_loss_contract"), ("config", "test_config")}


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
