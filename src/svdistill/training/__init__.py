"""One readable training loop on Accelerate, and the commands built on it."""

from svdistill.training.before_after import BeforeAfter, NetworkFigures, read_before_after
from svdistill.training.cache import cache_knowledge
from svdistill.training.evaluation import (
    evaluate,
    load_test_images,
    own_network,
    require_card,
)
from svdistill.training.images import load_data, trained_image_size
from svdistill.training.metrics import Evaluation, EvaluationImages
from svdistill.training.predictions import CalibrationBin, PredictionSummary, read_predictions
from svdistill.training.progress import BarReporter
from svdistill.training.reproducibility import derive_seed
from svdistill.training.run import distill, train
from svdistill.training.setup import (
    build_losses,
    choose_device,
    place_network,
    whole_loss,
)
from svdistill.training.step import autocast
from svdistill.training.stopping import as_machine_error
from svdistill.training.taps import NO_TAPS, own_taps, paired_taps, tap_paths, taps_of_store
from svdistill.training.teacher import fill_network, load_teacher

__all__ = [
    "NO_TAPS",
    "BarReporter",
    "BeforeAfter",
    "CalibrationBin",
    "Evaluation",
    "EvaluationImages",
    "NetworkFigures",
    "PredictionSummary",
    "as_machine_error",
    "autocast",
    "build_losses",
    "cache_knowledge",
    "choose_device",
    "derive_seed",
    "distill",
    "evaluate",
    "fill_network",
    "load_data",
    "load_teacher",
    "load_test_images",
    "own_network",
    "own_taps",
    "paired_taps",
    "place_network",
    "read_before_after",
    "read_predictions",
    "require_card",
    "tap_paths",
    "taps_of_store",
    "train",
    "trained_image_size",
    "whole_loss",
]
