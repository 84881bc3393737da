"""Record feature maps of any network; find its stages; pair a teacher's with a student's."""

from svdistill.taps.dry_run import dry_run
from svdistill.taps.layouts import channels_first, module_path
from svdistill.taps.pairing import (
    PairedTap,
    PairedTaps,
    align,
    describe_pairs,
    evenly,
    pair_taps,
    require_paired,
    require_two,
)
from svdistill.taps.recording import FeatureTaps, Recording, TapPairs, write_count
from svdistill.taps.stages import FoundStage, Stage, find_stages, grid

__all__ = [
    "FeatureTaps",
    "FoundStage",
    "PairedTap",
    "PairedTaps",
    "Recording",
    "Stage",
    "TapPairs",
    "align",
    "channels_first",
    "describe_pairs",
    "dry_run",
    "evenly",
    "find_stages",
    "grid",
    "module_path",
    "pair_taps",
    "require_paired",
    "require_two",
    "write_count",
]
