"""What README.md's five lines take as given: two networks, images, a loader."""

import torch
import torch.nn.functional as F  # noqa: F401  the five lines use it

from svdistill.networks import build_network

teacher = build_network("mobilenet_teacher", num_classes=5, width=0.25)
student = build_network("mobilenet_student", num_classes=5, width=0.125)
images = torch.rand(4, 3, 32, 32)
loader = [(images, torch.tensor([0, 1, 2, 3]))]
epochs = 2
