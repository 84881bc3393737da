"""The options of `svdistill cache`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from svdistill.common import ArgumentError, require_count
from svdistill.config.teacher import TeacherConfig


@dataclass(kw_only=True)
class CacheConfig(TeacherConfig):
    """Compute a teacher's knowledge of all training images once, and keep it on disk.

    Args:
        views: Random views of each image, 1 or more. A student sees one in each epoch, and starts
            again at the first after the last.
        views_seed: Seed of the views.
        dtype: Type of the numbers on disk, `float16` or `float32`. Tensors of at most 16 numbers
            per image are always float32.
        precision: Precision of the teacher, `float32`, `bf16`, or `auto` as for `train`.
            Decompositions are computed in float32 either way.
        batch_size: Images in a batch of the teacher.
        device: `auto`, `cpu` or `cuda`.
        resume: Check the store in `output`, and write what is missing or damaged.
    """

    views: int = 0
    views_seed: int = 0
    dtype: Literal["float16", "float32"] = "float16"
    precision: Literal["float32", "bf16", "auto"] = "float32"
    batch_size: int = 256
    device: Literal["auto", "cpu", "cuda"] = "auto"
    resume: bool = False

    def check(self) -> None:
        """Raise `ArgumentError` for the first invalid value."""
        super().check()
        if not self.teacher:
            raise ArgumentError(
                "teacher", expected="a trained network", got="nothing", remedy="give --teacher"
            )
        for name, least in (("views", 1), ("batch_size", 1), ("views_seed", 0)):
            require_count(name, getattr(self, name), least)
        if self.augmentation == "none" and self.views > 1:
            raise ArgumentError(
                "views",
                expected="1, since without augmentation all views are the same",
                got=self.views,
                remedy="give --views 1, or another --augmentation",
            )
