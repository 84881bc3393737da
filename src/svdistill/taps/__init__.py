"""Record feature maps of any network, find its stages, and pair a teacher's with a student's.

`FeatureTaps` in `recording.py` records modules named by path; `layouts.py` permutes their outputs
to what the losses take. `pair_taps` in `pairing.py` chooses the modules: it runs each network once
(`dry_run.py`), finds its stages (`stages.py`) and pairs them.
"""

from svdistill.taps.dry_run import dry_run, eval_mode
from svdistill.taps.layouts import channels_first, module_path
from svdistill.taps.pairing import (
    PairedTap,
    PairedTaps,
    align_stages,
    describe_pairs,
    evenly_spaced,
    pair_taps,
    require_distinct_networks,
    require_equally_many,
)
from svdistill.taps.recording import FeatureTaps, Recording, TapPairs, write_count
from svdistill.taps.stages import FoundStage, Stage, find_stages, map_size

__all__ = [
    "FeatureTaps",
    "FoundStage",
    "PairedTap",
    "PairedTaps",
    "Recording",
    "Stage",
    "TapPairs",
    "align_stages",
    "channels_first",
    "describe_pairs",
    "dry_run",
    "eval_mode",
    "evenly_spaced",
    "find_stages",
    "map_size",
    "module_path",
    "pair_taps",
    "require_distinct_networks",
    "require_equally_many",
    "write_count",
]
