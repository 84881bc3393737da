"""Distillation in a training loop of your own: five lines, any two modules.

python examples/own_loop.py
"""

import torch
import torch.nn.functional as F
from torch import nn

import svdistill as sd


def network(depth: int) -> nn.Sequential:
    """A small convolutional network with two stages, of 16 and 32 channels."""

    def stage(inputs: int, outputs: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for channels in [inputs] + [outputs] * (depth - 1):
            layers += [
                nn.Conv2d(channels, outputs, 3, padding=1),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        return nn.Sequential(*layers, nn.MaxPool2d(2))

    return nn.Sequential(stage(3, 16), stage(16, 32), nn.Flatten(), nn.Linear(32 * 16, 10))


def main() -> None:
    """Train a teacher for a moment, then its student."""
    torch.manual_seed(0)
    data = sd.load_images("digits")
    teacher, student = network(depth=3), network(depth=1)

    optimizer = torch.optim.AdamW(teacher.parameters(), lr=1e-2)
    for epoch in range(3):
        for images, labels, _ in data.train.batches(64, device="cpu", order_seed=epoch):
            F.cross_entropy(teacher(images / 255), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    distiller = sd.Distiller(teacher, student, sd.SVDLoss(num_vectors=1), taps=["0", "1"])
    for epoch in range(3):
        for images, labels, _ in data.train.batches(64, device="cpu", order_seed=epoch):
            out = distiller(images / 255)
            task_loss = F.cross_entropy(out.logits, labels)
            distiller.backward(task_loss, out, progress=epoch)
            optimizer.step()
            optimizer.zero_grad()
        print(f"epoch {epoch + 1}: task {task_loss:.3f}, transfer {out.transfer_loss:.3f}")

    student.eval()
    with torch.no_grad():
        right = [
            (student(images / 255).argmax(1) == labels).float()
            for images, labels, _ in data.test.batches(500, device="cpu", order_seed=None)
        ]
    print(f"test accuracy {100 * torch.cat(right).mean():.1f} %")


if __name__ == "__main__":
    main()
