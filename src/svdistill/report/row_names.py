"""What a run is called in tables and figures, by what its configuration says of its method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

LOSSES: Final = {
    "svd": "SVD",
    "fsp": "FSP",
    "position_svd": "position SVD",
    "soft_target": "soft target",
}
GRADIENTS: Final = {"poster": "poster's gradient", "authors": "authors' gradient"}
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
    losses = str(config["loss"]).split("+")
    two_stages = config.get("transfer_epochs", 0) > 0
    suffixes = ["2-stage"] if two_stages else ["1-stage"] if "fsp" in losses else []
    if "svd" in losses or "position_svd" in losses:
        suffixes += _differing(config, "num_vectors", 1, "k = {}")
    if "svd" in losses:
        suffixes += _svd_options(config)
    if "soft_target" in losses:
        suffixes += _differing(config, "temperature", 4.0, "T = {:g}")
    usual_clip = "none" if losses == ["soft_target"] else "norm"
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
    return " + ".join(LOSSES[loss] for loss in str(config["loss"]).split("+"))


def _svd_options(config: Mapping[str, Any]) -> list[str]:
    names = _differing(config, "beta", 8.0, "beta = {:g}")
    gradient = config.get("gradient", "exact")
    return names if gradient == "exact" else [*names, GRADIENTS[gradient]]


def _differing(config: Mapping[str, Any], field: str, usual: float, form: str) -> list[str]:
    value = config.get(field, usual)
    return [] if value == usual else [form.format(value)]


def _weights(config: Mapping[str, Any]) -> list[str]:
    """The weights of task and transfer, and of a soft target beside another loss, if unusual."""
    loss = config["loss"]
    weights = [config.get("task_weight", 1.0), config.get("transfer_weight", 1.0)]
    usual = [0.1, 0.9] if loss == "soft_target" else [1.0, 1.0]
    if "+" in loss:
        weights.append(config.get("soft_target_weight", 1.0))
        usual = [0.1, 1.0, 0.9]
    return [] if weights == usual else ["weights " + " : ".join(f"{w:g}" for w in weights)]
