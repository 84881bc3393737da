import re

import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset

import svdistill as sd

TAPS = ["stage1", "stage2", "stage3", "stage4"]


def test_teaches(run_script):
    printed = run_script()
    losses = [float(number) for number in re.findall(r"loss (\S+)", printed)]
    assert losses[-1] < 0.5 * losses[0]
    assert float(re.search(r"test accuracy (\S+) %", printed)[1]) > 80


def test_loss_and_gradients_are_the_distillers(example):
    torch.manual_seed(0)
    config = example.load_yaml_file(str(example.CONFIG))
    models = config["models"]
    teacher, student = models["teacher_model"].eval(), models["student_model"]
    images, labels = torch.rand(16, 3, 8, 8), torch.randint(10, (16,))
    datasets = {"digits/train": TensorDataset(images, labels)}
    box = example.get_distillation_box(
        teacher, student, datasets, config["train"], torch.device("cpu"), None, False, 1
    )
    box.pre_epoch_process(epoch=0)
    theirs = box.forward_process(images, labels, {})
    gradients = torch.autograd.grad(theirs, list(student.parameters()))

    loss = sd.SVDLoss(num_vectors=1, reduction="mean")
    distiller = sd.Distiller(teacher, student, loss, taps=TAPS, clip="none")
    out = distiller(images)
    task_loss = F.cross_entropy(out.logits, labels)
    distiller.backward(task_loss, out, progress=0)

    assert out.transfer_loss > 0.01
    torch.testing.assert_close(theirs, task_loss + out.transfer_loss)
    for gradient, parameter in zip(gradients, student.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-5)
