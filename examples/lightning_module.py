"""Distillation in Lightning: a LightningModule that leaves `.grad` to the Distiller.

    pip install 'svdistill[examples]'
    python examples/lightning_module.py

It uses manual optimisation, since clipping one gradient against another needs two backward passes.
Callbacks, checkpoints, loggers and validation work as usual. For one device, in float32 or bf16. To
accumulate gradients, split the batch in `training_step` after
`self.distiller.accumulate(len(images))`: manual optimisation has no `accumulate_grad_batches`.
"""

from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import svdistill as sd

Batch = list[Tensor]  # images [B, 3, H, W] and labels [B]


class Distillation(L.LightningModule):
    """Train a student on labels and on its teacher's knowledge."""

    def __init__(self, teacher: nn.Module, student: nn.Module, taps: sd.PairedTaps) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.distiller = sd.Distiller(
            teacher,
            student,
            sd.PositionGramLoss(),
            taps=taps,
            clip="amortised",
            unclipped=sd.SoftTargetLoss(),
        )

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Make one whole step."""
        images, labels = batch
        optimizer: Any = self.optimizers()  # a single one, as returned below
        out = self.distiller(images)
        task_loss = F.cross_entropy(out.logits, labels)
        self.distiller.backward(task_loss, out, progress=self.current_epoch)
        optimizer.step()
        optimizer.zero_grad()
        self.log_dict({"task_loss": task_loss, "transfer_loss": out.transfer_loss}, prog_bar=True)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure the student's accuracy."""
        images, labels = batch
        correct = self.distiller.student(images).argmax(dim=1) == labels
        self.log("accuracy", correct.float().mean(), batch_size=len(images), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Optimise the student, and adapters if the channels differ."""
        return torch.optim.AdamW(self.distiller.trainable_parameters(), lr=1e-2)


def train_teacher(loader: DataLoader) -> nn.Module:
    """Train a teacher for three epochs; yours would come from a file."""
    teacher = sd.build_network("mobilenet_teacher", num_classes=10, width=0.25)
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=1e-2)
    for _ in range(3):
        for images, labels in loader:
            F.cross_entropy(teacher(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    return teacher


def main() -> None:
    """Train a teacher, then its student."""
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None].repeat(1, 3, 1, 1)
    labels = torch.tensor(digits.target)
    train = DataLoader(TensorDataset(images[:1400], labels[:1400]), batch_size=64, shuffle=True)
    test = DataLoader(TensorDataset(images[1400:], labels[1400:]), batch_size=397)

    teacher = train_teacher(train)
    student = sd.build_network("mobilenet_student", num_classes=10, width=0.25)
    taps = sd.pair_taps(teacher, student, images[:2])
    trainer = L.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(Distillation(teacher, student, taps), train, test)
    for name, value in trainer.callback_metrics.items():
        print(f"{name} {float(value):.3f}")


if __name__ == "__main__":
    main()
