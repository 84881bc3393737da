"""Knowledge distillation by singular value decomposition, in PyTorch.

`import svdistill` alone imports nothing else, not even torch: each public name and each room is
imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what type checkers and editors see
    from svdistill.adapters import Adapters
    from svdistill.data import ImageData, images_from_loaders, load_images
    from svdistill.distiller import Distiller, DistillerOutput
    from svdistill.errors import (
        ArgumentError,
        DataError,
        MachineError,
        RunError,
        SVDistillError,
        TrainingError,
        TransferWarning,
    )
    from svdistill.experiments import demo
    from svdistill.export import (
        ExportMetadata,
        ExportReport,
        export_student,
        read_export_metadata,
    )
    from svdistill.knowledge_store import KnowledgeStore
    from svdistill.linalg import TruncatedSVD, truncated_svd
    from svdistill.losses import (
        FSPLoss,
        Knowledge,
        PositionSVDLoss,
        SoftTargetLoss,
        SumLoss,
        SVDLoss,
        TransferLoss,
        dfv,
        dfv_distance,
    )
    from svdistill.multitask import GradientNorms, multitask_backward
    from svdistill.networks import InputSpec, build_network, input_spec
    from svdistill.taps import FeatureTaps, PairedTaps, TapPairs, describe_pairs, pair_taps
    from svdistill.training import (
        CacheConfig,
        DistillConfig,
        RunSummary,
        TrainConfig,
        cache_knowledge,
        distill,
        evaluate,
        load_student,
        train,
    )

__all__ = [
    "Adapters",
    "ArgumentError",
    "CacheConfig",
    "DataError",
    "DistillConfig",
    "Distiller",
    "DistillerOutput",
    "ExportMetadata",
    "ExportReport",
    "FSPLoss",
    "FeatureTaps",
    "GradientNorms",
    "ImageData",
    "InputSpec",
    "Knowledge",
    "KnowledgeStore",
    "MachineError",
    "PairedTaps",
    "PositionSVDLoss",
    "RunError",
    "RunSummary",
    "SVDLoss",
    "SVDistillError",
    "SoftTargetLoss",
    "SumLoss",
    "TapPairs",
    "TrainConfig",
    "TrainingError",
    "TransferLoss",
    "TransferWarning",
    "TruncatedSVD",
    "build_network",
    "cache_knowledge",
    "demo",
    "describe_pairs",
    "dfv",
    "dfv_distance",
    "distill",
    "evaluate",
    "export_student",
    "images_from_loaders",
    "input_spec",
    "load_images",
    "load_student",
    "multitask_backward",
    "pair_taps",
    "read_export_metadata",
    "train",
    "truncated_svd",
]

# In the order of the house: a room imports only from those before it, so that to look for a name
# in one after the other imports little that its own room does not.
_ROOMS = (
    *("errors", "terminal", "files", "locking", "plain_values", "plain_yaml", "timing", "cores"),
    *("user_code", "logits", "launching", "parallel", "linalg", "losses", "taps", "adapters"),
    *("frozen_teacher", "multitask", "watching", "distiller", "networks", "data"),
    *("knowledge_store", "training", "report", "experiments", "benchmarks", "export", "cli"),
)


def _import(name: str) -> object:
    """A public name, from the first room that has it; or a room."""
    if name in _ROOMS:
        return importlib.import_module(f"svdistill.{name}")
    if name in __all__:
        for room in _ROOMS:
            module = importlib.import_module(f"svdistill.{room}")
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module 'svdistill' has no attribute {name!r}")


if not TYPE_CHECKING:  # a type checker that saw it would take misspelt names for good ones

    def __getattr__(name: str) -> object:
        value = _import(name)
        globals()[name] = value  # the next time it is an ordinary attribute
        return value


def __dir__() -> list[str]:
    return [*{*globals(), *__all__, *_ROOMS}]
