"""Record feature maps of any network, find its stages, and pair a teacher's with a student's.

`FeatureTaps` in `recording.py` records modules named by path, and permutes their outputs to what
the losses take. `pair_taps` in `pairing.py` chooses the modules: it runs each network once, finds
its stages (`stages.py`) and pairs them.
"""

from svdistill.taps.pairing import (
    PairedTap as PairedTap,
    PairedTaps as PairedTaps,
    align_stages as align_stages,
    describe_pairs as describe_pairs,
    evenly_spaced as evenly_spaced,
    pair_taps as pair_taps,
    require_distinct_networks as require_distinct_networks,
    require_equally_many as require_equally_many,
)
from svdistill.taps.recording import (
    FeatureTaps as FeatureTaps,
    Recording as Recording,
    TapPairs as TapPairs,
    channels_first as channels_first,
    module_path as module_path,
    write_count as write_count,
)
from svdistill.taps.stages import (
    FoundStage as FoundStage,
    Stage as Stage,
    dry_run as dry_run,
    eval_mode as eval_mode,
    find_stages as find_stages,
    map_size as map_size,
    trial_run as trial_run,
)
