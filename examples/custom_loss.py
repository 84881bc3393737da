"""Your own transfer loss: attention transfer, in one class with two methods.

python examples/custom_loss.py

`extract` computes the teacher's knowledge, `forward` the student's distance from it. Such a loss
works in a Distiller, in a SumLoss beside others, and with a KnowledgeStore, which keeps the tensors
of its knowledge. Here these are one attention map per tap, so the channels of the two networks may
differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import svdistill as sd
from svdistill.losses.transfer import as_matrices, require_match


@dataclass(frozen=True)
class AttentionKnowledge(sd.Knowledge):
    """One attention map [B, N] per tap over the N positions, each image's of norm 1."""

    maps: tuple[Tensor, ...]


class AttentionLoss(sd.TransferLoss):
    """Distance of a student's attention maps from its teacher's.

    A position's attention is the mean square over its channels. With normalised maps::

        loss = sum_taps mean_{images, positions} (a_S - a_T)^2

    Source: Zagoruyko, Komodakis, "Paying More Attention to Attention", ICLR 2017, as in their code.
    """

    needs_logits = False
    compares_channels = False
    knowledge_type = AttentionKnowledge

    @torch.no_grad()
    def extract(self, features: Sequence[Tensor], logits: Tensor | None) -> AttentionKnowledge:
        """Compute the teacher's attention maps."""
        return AttentionKnowledge(tuple(map(attention_map, features)))

    def forward(
        self,
        features: Sequence[Tensor],
        logits: Tensor,
        knowledge: AttentionKnowledge,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Compute the distance of the student's attention maps."""
        students, teachers = [attention_map(feature) for feature in features], knowledge.maps
        require_match("number of taps", len(students), len(teachers), "tap the same stages")
        for student, teacher in zip(students, teachers, strict=True):
            remedy = "use one batch for both, and taps of one resolution"
            require_match("images and positions", student.shape, teacher.shape, remedy)
        losses = [F.mse_loss(*maps) for maps in zip(students, teachers, strict=True)]
        return torch.stack(losses).sum()


def attention_map(feature_map: Tensor) -> Tensor:
    """Convert maps [B, D, H, W], tokens [B, T, D] or vectors [B, D] to [B, N], at least float32."""
    matrices = as_matrices(feature_map)
    matrices = matrices.to(torch.promote_types(matrices.dtype, torch.float32))
    return F.normalize(matrices.square().mean(dim=2), dim=1)


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
    loader = DataLoader(TensorDataset(images[:1400], labels[:1400]), batch_size=64, shuffle=True)

    student = sd.build_network("mobilenet_student", num_classes=10, width=0.125)
    taps = ["stage1", "stage2", "stage3", "stage4"]
    distiller = sd.Distiller(train_teacher(loader), student, AttentionLoss(), taps=taps)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    for epoch in range(3):
        transfer = 0.0
        for batch, batch_labels in loader:
            out = distiller(batch)
            task_loss = F.cross_entropy(out.logits, batch_labels)
            distiller.backward(task_loss, out, progress=epoch)
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
