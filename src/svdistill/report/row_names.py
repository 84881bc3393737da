"""What a run is called in tables and figures, by what its configuration says of its method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from svdistill.losses.registry import OPTIONS, may_read, registered_specs, titles

GRADIENTS: Final = {"poster": "poster's gradient", "authors": "authors' gradient"}
# How a row names an option of a loss that is not as in the paper.
OPTION_TEXTS: Final[Mapping[str, Callable[[Any], str]]] = {
    "num_vectors": "k = {}".format,
    "beta": "beta = {:g}".format,
    "gradient": lambda gradient: GRADIENTS[gradient],
    "temperature": "T = {:g}".format,
}
CLIPS: Final = {
    "norm": "clipped",
    "poster": "poster's clip",
    "global": "global",
    "amortised": "amortised",
    "none": "unclipped",
}


def row_name(config: Mapping[str, Any]) -> str:
    """Name the row of a run: its method, and what differs there from the seed's way.

    Runs of one row differ in seed, schedule or length alone. In 2-stage training nothing is
    clipped, so no clip is named. Labels are usually weighted 0.1 beside soft targets of 0.9, and
    soft targets are not clipped; every other loss is usually clipped per tensor and weighted 1.

    Args:
        config: the values of a run's config.yaml; those that an older version did not know may
            be missing.

    Returns:
        The name.

    Example:
        >>> row_name({"network": "vgg_student", "loss": "svd", "clip": "amortised"})
        'SVD, amortised'
        >>> row_name({"network": "vgg_teacher"})
        'teacher'
    """
    if "loss" not in config:
        return "teacher" if str(config["network"]).endswith("_teacher") else "student alone"
    loss = str(config["loss"])
    two_stages = config.get("transfer_epochs", 0) > 0
    usually_two = any(spec.stages == 2 for spec in registered_specs(loss))
    suffixes = ["2-stage"] if two_stages else ["1-stage"] if usually_two else []
    suffixes += [
        text(config[option])
        for option, text in OPTION_TEXTS.items()
        if may_read(loss, option) and config.get(option, OPTIONS[option]) != OPTIONS[option]
    ]
    usual_clip = "none" if _is_of_task(loss) else "norm"
    if not two_stages and config.get("clip", "norm") != usual_clip:
        suffixes.append(CLIPS[config.get("clip", "norm")])
    if config.get("student_taps"):
        suffixes.append(f"taps {' '.join(config['student_taps'])}")
    if config.get("unlabelled"):
        suffixes.append("unlabelled images too")
    return ", ".join([loss_name(config), *suffixes, *_weights(config)])


def loss_name(config: Mapping[str, Any]) -> str:
    """Name what a run transferred, and nothing of how.

    Example:
        >>> loss_name({"loss": "svd+soft_target"})
        'SVD + soft target'
    """
    return " + ".join(titles(str(config["loss"])))


def _is_of_task(loss: str) -> bool:
    """Whether all of a sum's losses are of those that are not clipped beside another."""
    specs = registered_specs(loss)
    return len(specs) == len(titles(loss)) and not any(spec.clipped for spec in specs)


def _weights(config: Mapping[str, Any]) -> list[str]:
    """The weights of task and transfer, and of a soft target beside another loss, if unusual."""
    loss = str(config["loss"])
    weights = [config.get("task_weight", 1.0), config.get("transfer_weight", 1.0)]
    usual = [1.0, 1.0]
    if _is_of_task(loss):
        usual = [0.1, 0.9]
    elif added := [spec.weight for spec in registered_specs(loss) if spec.weight]:
        weights += [config.get(weight, 1.0) for weight in added]
        usual = [0.1, 1.0, *[0.9] * len(added)]
    return [] if weights == usual else ["weights " + " : ".join(f"{w:g}" for w in weights)]
