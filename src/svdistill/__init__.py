"""Knowledge distillation by singular value decomposition, in PyTorch.

`import svdistill` alone imports nothing else, not even torch: each public name and each room is
imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what type checkers and editors see
    from svdistill.common import (
        ArgumentError as ArgumentError,
        DataError as DataError,
        MachineError as MachineError,
        RunError as RunError,
        SVDistillError as SVDistillError,
        TrainingError as TrainingError,
        TransferWarning as TransferWarning,
        keep_memory as keep_memory,
    )
    from svdistill.config import (
        CacheConfig as CacheConfig,
        DistillConfig as DistillConfig,
        TrainConfig as TrainConfig,
    )
    from svdistill.data import (
        ImageData as ImageData,
        images_from_loaders as images_from_loaders,
        load_images as load_images,
    )
    from svdistill.distillation import (
        Adapters as Adapters,
        Distiller as Distiller,
        DistillerOutput as DistillerOutput,
        GradientNorms as GradientNorms,
        multitask_backward as multitask_backward,
    )
    from svdistill.export import (
        ExportMetadata as ExportMetadata,
        ExportOptions as ExportOptions,
        ExportReport as ExportReport,
        Prediction as Prediction,
        export_student as export_student,
        predict as predict,
        read_export_metadata as read_export_metadata,
    )
    from svdistill.linalg import TruncatedSVD as TruncatedSVD, truncated_svd as truncated_svd
    from svdistill.losses import (
        AttentionTransferLoss as AttentionTransferLoss,
        CosineAffinityLoss as CosineAffinityLoss,
        DISTLoss as DISTLoss,
        DKDLoss as DKDLoss,
        FSPLoss as FSPLoss,
        Knowledge as Knowledge,
        LogitStandardizationLoss as LogitStandardizationLoss,
        PositionGramLoss as PositionGramLoss,
        PositionSVDLoss as PositionSVDLoss,
        SimilarityPreservingLoss as SimilarityPreservingLoss,
        SoftTargetLoss as SoftTargetLoss,
        SumLoss as SumLoss,
        SVDLoss as SVDLoss,
        TransferLoss as TransferLoss,
        dfv as dfv,
        dfv_distance as dfv_distance,
    )
    from svdistill.networks import (
        InputSpec as InputSpec,
        build_network as build_network,
        input_spec as input_spec,
    )
    from svdistill.paper import demo as demo
    from svdistill.runs import RunSummary as RunSummary, load_student as load_student
    from svdistill.store import KnowledgeStore as KnowledgeStore
    from svdistill.taps import (
        FeatureTaps as FeatureTaps,
        PairedTaps as PairedTaps,
        TapPairs as TapPairs,
        describe_pairs as describe_pairs,
        pair_taps as pair_taps,
    )
    from svdistill.training import (
        cache_knowledge as cache_knowledge,
        distill as distill,
        evaluate as evaluate,
        train as train,
    )

# The rooms in the order of their imports, and the public names of each.
_NAMES = {
    "common": (
        "ArgumentError",
        "DataError",
        "MachineError",
        "RunError",
        "SVDistillError",
        "TrainingError",
        "TransferWarning",
        "keep_memory",
    ),
    "parallel": (),
    "linalg": ("TruncatedSVD", "truncated_svd"),
    "losses": (
        "AttentionTransferLoss",
        "CosineAffinityLoss",
        "DISTLoss",
        "DKDLoss",
        "FSPLoss",
        "Knowledge",
        "LogitStandardizationLoss",
        "PositionGramLoss",
        "PositionSVDLoss",
        "SVDLoss",
        "SimilarityPreservingLoss",
        "SoftTargetLoss",
        "SumLoss",
        "TransferLoss",
        "dfv",
        "dfv_distance",
    ),
    "taps": ("FeatureTaps", "PairedTaps", "TapPairs", "describe_pairs", "pair_taps"),
    "networks": ("InputSpec", "build_network", "input_spec"),
    "distillation": (
        "Adapters",
        "Distiller",
        "DistillerOutput",
        "GradientNorms",
        "multitask_backward",
    ),
    "data": ("ImageData", "images_from_loaders", "load_images"),
    "store": ("KnowledgeStore",),
    "config": ("CacheConfig", "DistillConfig", "TrainConfig"),
    "runs": ("RunSummary", "load_student"),
    "training": ("cache_knowledge", "distill", "evaluate", "train"),
    "export": (
        "ExportMetadata",
        "ExportOptions",
        "ExportReport",
        "Prediction",
        "export_student",
        "predict",
        "read_export_metadata",
    ),
    "report": (),
    "paper": ("demo",),
    "cli": (),
}
_ROOM_OF = {name: room for room, names in _NAMES.items() for name in names}

__all__ = sorted(_ROOM_OF)


def _import(name: str) -> object:
    if name in _NAMES:
        return importlib.import_module(f"svdistill.{name}")
    if name in _ROOM_OF:
        return getattr(importlib.import_module(f"svdistill.{_ROOM_OF[name]}"), name)
    raise AttributeError(f"module 'svdistill' has no attribute {name!r}")


if not TYPE_CHECKING:  # a type checker that saw it would take misspelt names for good ones

    def __getattr__(name: str) -> object:
        value = _import(name)
        globals()[name] = value  # the next time it is an ordinary attribute
        return value


def __dir__() -> list[str]:
    return [*{*globals(), *_ROOM_OF, *_NAMES}]
