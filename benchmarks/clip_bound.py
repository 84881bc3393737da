"""How far the amortised clip exceeds its bound between two measurements.

    python benchmarks/clip_bound.py

Trains on digits in batches of 8 and compares, in every step, the norm of the clipped transfer
gradient with that of the task's. Writes `benchmarks/results/clip-bound.json`; takes a minute.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import svdistill as sd
from svdistill_benchmarks.machine import machine

RESULT = Path(__file__).parent / "results" / "clip-bound.json"
EPOCHS = 5
Gradients = tuple[Tensor | None, ...]


def main() -> None:
    """Measure, print and write."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    data = sd.load_images("digits", image_size=16)
    normalise = data.augmentation("none").normalise
    teacher = sd.build_network("mobilenet_teacher", num_classes=10, width=0.25)
    student = sd.build_network("mobilenet_student", num_classes=10, width=0.25)
    optimizer = torch.optim.SGD(teacher.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(4):
        for batch in data.train.batches(64, device="cpu", order_seed=epoch):
            optimizer.zero_grad()
            F.cross_entropy(teacher(normalise(batch.images)), batch.labels).backward()
            optimizer.step()
    stages = ["stage1", "stage2", "stage3", "stage4"]
    distiller = sd.Distiller(teacher, student, sd.PositionSVDLoss(), taps=stages)
    parameters = distiller.trainable_parameters()
    optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9)
    ratios: list[float] = []
    for epoch in range(EPOCHS):
        for batch in data.train.batches(8, device="cpu", order_seed=epoch):
            distiller.train()
            out = distiller(normalise(batch.images))
            task_loss = F.cross_entropy(out.logits, batch.labels)
            task = torch.autograd.grad(task_loss, parameters, retain_graph=True)
            distiller.backward(task_loss, out, progress=50)
            whole = [parameter.grad for parameter in parameters]
            transfer = tuple(
                None if sums is None else sums - own for sums, own in zip(whole, task, strict=True)
            )
            ratios.append(norm(transfer) / norm(task))
            optimizer.step()
            distiller.zero_grad()
    found = torch.tensor(ratios)
    result = {
        "steps": len(found),
        "median": float(found.median()),
        "quantile_95": float(found.quantile(0.95)),
        "worst": float(found.max()),
        "share_above_1": float((found > 1.001).float().mean()),
        "machine": machine(),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def norm(gradients: Gradients) -> float:
    """The norm over all parameters."""
    squares = (gradient.square().sum() for gradient in gradients if gradient is not None)
    return float(torch.stack(list(squares)).sum().sqrt())


if __name__ == "__main__":
    main()
