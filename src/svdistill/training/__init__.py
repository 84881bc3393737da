"""One readable training loop on Accelerate, and the commands built on it."""

from svdistill.training.cache import cache_knowledge as cache_knowledge
from svdistill.training.evaluation import (
    evaluate as evaluate,
    load_test_images as load_test_images,
    own_network as own_network,
    require_card as require_card,
)
from svdistill.training.images import (
    load_data as load_data,
    trained_image_size as trained_image_size,
)
from svdistill.training.metrics import EvaluationImages as EvaluationImages
from svdistill.training.progress import BarReporter as BarReporter
from svdistill.training.results import (
    BeforeAfter as BeforeAfter,
    CalibrationBin as CalibrationBin,
    NetworkFigures as NetworkFigures,
    PredictionSummary as PredictionSummary,
    read_before_after as read_before_after,
    read_predictions as read_predictions,
)
from svdistill.training.run import distill as distill, train as train
from svdistill.training.setup import (
    build_losses as build_losses,
    choose_device as choose_device,
    place_network as place_network,
)
from svdistill.training.step import autocast as autocast
from svdistill.training.stopping import as_machine_error as as_machine_error
from svdistill.training.taps import tap_paths as tap_paths
