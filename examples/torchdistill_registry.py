"""The SVD loss in torchdistill: registered once, then chosen and tapped in its YAML.

    pip install 'svdistill[peers]'
    python examples/torchdistill_registry.py

For torchdistill's own scripts, import this file under `dependencies` in the YAML. torchdistill adds
losses with fixed weights, so the transfer gradient is not clipped against the task's.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchdistill.common.yaml_util import load_yaml_file
from torchdistill.core.distillation import DistillationBox, get_distillation_box
from torchdistill.losses.registry import register_mid_level_loss

import svdistill as sd

CONFIG = Path(__file__).with_name("torchdistill_svd.yaml")


@register_mid_level_loss(key="SVDLoss")
class RegisteredSVDLoss(nn.Module):
    """svdistill's loss on the feature maps that torchdistill's forward hooks recorded.

    Args:
        taps: in order from the input, each `{teacher: {io, path}, student: {io, path}}`.
        options: of `svdistill.SVDLoss`.
    """

    def __init__(self, taps: list[dict[str, dict[str, str]]], **options: Any) -> None:
        super().__init__()
        self.taps = taps
        self.loss = sd.SVDLoss(**options)

    def forward(
        self,
        student_io_dict: dict[str, dict[str, Tensor]],
        teacher_io_dict: dict[str, dict[str, Tensor]],
        *_: Any,
    ) -> Tensor:
        """Compute the loss of one batch; labels are not used."""
        student = [_recorded(student_io_dict, tap["student"]) for tap in self.taps]
        teacher = [_recorded(teacher_io_dict, tap["teacher"]) for tap in self.taps]
        return self.loss(student, None, self.loss.extract(teacher, None))


def _recorded(io_dict: dict[str, dict[str, Tensor]], tap: dict[str, str]) -> Tensor:
    return io_dict[tap["path"]][tap["io"]]


def train_teacher(teacher: nn.Module, loader: DataLoader) -> None:
    """Train the teacher for three epochs; yours would come from a file."""
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=1e-2)
    for _ in range(3):
        for images, labels in loader:
            F.cross_entropy(teacher(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    teacher.eval()


def train_student(box: DistillationBox) -> None:
    """Train the student by the loop of torchdistill's scripts."""
    for epoch in range(box.num_epochs):
        box.pre_epoch_process(epoch=epoch)
        total = 0.0
        for images, labels, supplement in box.train_data_loader:
            box.pre_forward_process()
            loss = box.forward_process(images, labels, supplement)
            box.post_forward_process(loss=loss)
            total += loss.item()
        box.post_epoch_process()
        print(f"epoch {epoch + 1}: loss {total / len(box.train_data_loader):.3f}")


def main() -> None:
    """Train a teacher, then its student."""
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None].repeat(1, 3, 1, 1)
    labels = torch.tensor(digits.target)
    train = TensorDataset(images[:1400], labels[:1400])

    config = load_yaml_file(str(CONFIG))
    teacher, student = config["models"]["teacher_model"], config["models"]["student_model"]
    train_teacher(teacher, DataLoader(train, batch_size=64, shuffle=True))

    device = torch.device("cpu")
    datasets = {"digits/train": train}
    box = get_distillation_box(
        teacher, student, datasets, config["train"], device, None, distributed=False, lr_factor=1
    )
    train_student(box)
    student.eval()
    with torch.no_grad():
        correct = student(images[1400:]).argmax(dim=1) == labels[1400:]
    print(f"test accuracy {100 * correct.float().mean():.1f} %")


if __name__ == "__main__":
    main()
