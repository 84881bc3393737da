"""Losses that train modules of their own; one keeps a buffer on which its next steps depend."""

from dataclasses import dataclass

import torch
from torch import nn

from svdistill.losses import Knowledge, SoftTargetLoss, TransferLoss


@dataclass(frozen=True)
class MeansKnowledge(Knowledge):
    """Per tap: the mean [B, D_T] over the positions of the teacher's map."""

    means: tuple[torch.Tensor, ...]


class ProjectingLoss(TransferLoss):
    """Squares of the projected means' differences from the teacher's, over their running mean."""

    needs_logits = False
    compares_channels = False
    trains_modules = True
    knowledge_type = MeansKnowledge

    def prepare(self, student_channels, teacher_channels):
        self.projections = nn.ModuleList(map(nn.Linear, student_channels, teacher_channels))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def extract(self, features, logits):
        return MeansKnowledge(tuple(feature.flatten(2).mean(2) for feature in features))

    def forward(self, features, logits, knowledge, labels=None):
        means = (feature.flatten(2).mean(2) for feature in features)
        pairs = zip(self.projections, means, knowledge.means, strict=True)
        squares = torch.stack([(project(s) - t).square().mean() for project, s, t in pairs]).sum()
        if self.training:
            self.scale.lerp_(squares.detach(), 0.2)
            self.steps += 1
        return squares / self.scale


class LearnedTemperatureLoss(SoftTargetLoss):
    """Soft targets, which read no taps, at a temperature that is trained."""

    trains_modules = True

    def prepare(self, student_channels, teacher_channels):
        self.channels = (list(student_channels), list(teacher_channels))
        self.scale = nn.Linear(1, 1, bias=False)

    def distance(self, student, teacher, labels):
        factor = self.scale.weight.exp()
        return super().distance(student * factor, teacher * factor, labels)
