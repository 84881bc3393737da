"""Lets `import torchvision`, and so `import timm`, work beside a CPU build of torch.

PyPI's torchvision is built for PyTorch's CUDA build. Beside a CPU build its operators do not load,
and the import fails with `operator torchvision::nms does not exist`. PyTorch's own index has a CPU
build, which `make` prefers. Where that cannot be reached, `make` puts this file and
cpu_torchvision.pth, which imports it whenever Python starts, into the virtual environment. It
imports torch only once somebody imports torchvision, and defines the names of the missing
operators, which no classifier uses.
"""

import sys


class Finder:
    """Defines the operators' names before torchvision is imported."""

    def find_spec(self, name, path=None, target=None):
        """Leave the search to the other finders."""
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            self.library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                self.library.define(schema)


FINDER = Finder()  # an operator exists for as long as its library object
sys.meta_path.insert(0, FINDER)
