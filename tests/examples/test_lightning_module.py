import copy
import re

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

import svdistill as sd

# Lightning's warnings are of classes of its own, which another process of the tests cannot import
# where torchvision must be prepared first. Ours still count.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("error::svdistill.common.errors.TransferWarning"),
]


def test_teaches_and_leaves_no_files(run_script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = run_script()
    assert float(re.search(r"accuracy (\S+)", printed)[1]) > 0.8
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_ends_with_the_weights_of_a_plain_loop(example, precision):
    torch.manual_seed(0)
    teacher = sd.build_network("mobilenet_teacher", num_classes=10, width=0.25)
    student = sd.build_network("mobilenet_student", num_classes=10, width=0.125)
    images, labels = torch.rand(48, 3, 8, 8), torch.randint(10, (48,))
    taps = sd.pair_taps(teacher, student, images)
    torch.manual_seed(1)
    module = example.Distillation(copy.deepcopy(teacher), student, taps)
    before = copy.deepcopy(student.state_dict())
    torch.manual_seed(1)
    plain = sd.Distiller(
        teacher,
        copy.deepcopy(student),
        sd.PositionGramLoss(),
        taps=taps,
        clip="amortised",
        unclipped=sd.SoftTargetLoss(),
    )
    loader = DataLoader(TensorDataset(images, labels), batch_size=16)

    trainer = example.L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(module, loader)

    optimizer = torch.optim.AdamW(plain.trainable_parameters(), lr=1e-2)
    plain.train()
    for epoch in range(2):
        for batch, batch_labels in loader:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
                out = plain(batch)
                task_loss = F.cross_entropy(out.logits, batch_labels)
                plain.backward(task_loss, out, progress=epoch)  # as in Lightning's training step
            optimizer.step()
            optimizer.zero_grad()

    torch.testing.assert_close(student.state_dict(), plain.student.state_dict())
    assert any(not torch.equal(before[name], weight) for name, weight in student.named_parameters())
