"""Record feature maps of any network; find its stages; pair a teacher's with a student's."""

from svdistill.taps.paired import PairedTap, PairedTaps
from svdistill.taps.pairing import describe_pairs, pair_taps
from svdistill.taps.recording import FeatureTaps, Recording, TapPairs, write_count
from svdistill.taps.stages import Stage

__all__ = [
    "FeatureTaps",
    "PairedTap",
    "PairedTaps",
    "Recording",
    "Stage",
    "TapPairs",
    "describe_pairs",
    "pair_taps",
    "write_count",
]
