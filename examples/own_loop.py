"""Distillation in your own training loop: five lines, any two modules.

python examples/own_loop.py
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

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

    return nn.Sequential(stage(1, 16), stage(16, 32), nn.Flatten(), nn.Linear(32 * 4, 10))


def main() -> None:
    """Train a teacher for three epochs, then its student."""
    sd.keep_memory()  # faster on a CPU; once, before training
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
    labels = torch.tensor(digits.target)
    loader = DataLoader(TensorDataset(images[:1400], labels[:1400]), batch_size=64, shuffle=True)
    teacher, student = network(depth=3), network(depth=1)

    optimizer = torch.optim.AdamW(teacher.parameters(), lr=1e-2)
    for _ in range(3):
        for batch, batch_labels in loader:
            F.cross_entropy(teacher(batch), batch_labels).backward()
            optimizer.step()
            optimizer.zero_grad()

    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    distiller = sd.Distiller(
        teacher,
        student,
        sd.PositionGramLoss(),
        taps=["0", "1"],
        clip="amortised",
        unclipped=sd.DISTLoss(),
    )
    for epoch in range(3):
        transfer = 0.0
        for batch, batch_labels in loader:
            out = distiller(batch)
            task_loss = F.cross_entropy(out.logits, batch_labels)
            distiller.backward(task_loss, out, progress=epoch)
            nn.utils.clip_grad_norm_(student.parameters(), 5.0)
            optimizer.step()
            optimizer.zero_grad()
            transfer += out.transfer_loss.item() / len(loader)
        print(f"epoch {epoch + 1}: transfer loss {transfer:.3f}")

    student.eval()
    with torch.no_grad():
        correct = student(images[1400:]).argmax(dim=1) == labels[1400:]
    print(f"test accuracy {100 * correct.float().mean():.1f} %")


if __name__ == "__main__":
    main()
