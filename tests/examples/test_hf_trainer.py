import copy
import re

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import Subset

import svdistill as sd


def distiller_of(teacher, student):
    """With the same adapters whenever it is called."""
    taps = sd.pair_taps(teacher, student, torch.rand(2, 1, 8, 8))
    torch.manual_seed(1)
    return sd.Distiller(teacher, student, sd.SVDLoss(num_vectors=1), taps=taps)


def test_teaches(run_script):
    assert float(re.search(r"test accuracy (\S+) %", run_script())[1]) > 80


@pytest.mark.parametrize("bf16", [False, True])
def test_ends_with_the_weights_of_whole_batches(example, tmp_path, bf16):
    """Five batches, the last one short, two to a step. SGD shows a gradient that is scaled."""
    torch.manual_seed(0)
    teacher = example.vision_transformer(layers=3, channels=32)
    student = example.vision_transformer(layers=2, channels=16)
    plain = distiller_of(copy.deepcopy(teacher), copy.deepcopy(student))
    before = copy.deepcopy(student.state_dict())
    batches: list[dict[str, torch.Tensor]] = []
    losses: list[torch.Tensor] = []

    class Recorder(example.DistillationTrainer):
        """Keeps the batches as they come, and the loss of each: the Trainer shuffles."""

        def training_step(self, model, inputs, num_items_in_batch=None):
            batches.append(inputs)
            with torch.no_grad():
                logits = model(inputs["pixel_values"]).logits.float()
            losses.append(F.cross_entropy(logits, inputs["labels"], reduction="sum"))
            return super().training_step(model, inputs, num_items_in_batch)

    arguments = example.TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=1,
        per_device_train_batch_size=16,
        gradient_accumulation_steps=2,
        optim="sgd",
        learning_rate=0.1,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,  # a bound would hide a wrong scale as well
        bf16=bf16,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    images = Subset(example.Digits(slice(1400)), range(88))
    distiller = distiller_of(teacher, student)
    trainer = Recorder(distiller=distiller, args=arguments, train_dataset=images)
    reported = trainer.train().training_loss

    optimizer = torch.optim.SGD(plain.trainable_parameters(), lr=0.1)
    plain.train()
    # The Trainer has prepared the student alone: the teacher and the losses are not in bf16.
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=bf16)
    plain.student.forward = autocast(plain.student.forward)
    for step in (batches[:2], batches[2:4], batches[4:]):
        out = plain(torch.cat([batch["pixel_values"] for batch in step]))
        task_loss = F.cross_entropy(out.logits.float(), torch.cat([b["labels"] for b in step]))
        plain.backward(task_loss, out, progress=0)
        optimizer.step()
        optimizer.zero_grad()

    close = {"rtol": 0, "atol": 1e-3 if bf16 else 1e-6}
    torch.testing.assert_close(student.state_dict(), plain.student.state_dict(), **close)
    torch.testing.assert_close(
        distiller.adapters.state_dict(), plain.adapters.state_dict(), **close
    )
    assert not torch.allclose(student.classifier.weight, before["classifier.weight"])
    # Not the losses of `plain`: in bf16 its weights differ a little after the first step.
    expected = [
        sum(losses[start : start + 2]) / sum(len(b["labels"]) for b in batches[start : start + 2])
        for start in (0, 2, 4)
    ]
    assert abs(reported - sum(expected) / 3) < 1e-4


def test_saves_the_student_alone(example, tmp_path):
    teacher = example.vision_transformer(layers=3, channels=32)
    student = example.vision_transformer(layers=2, channels=16)
    arguments = example.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    trainer = example.DistillationTrainer(distiller=distiller_of(teacher, student), args=arguments)
    trainer.save_model()
    saved = example.ViTForImageClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(saved.state_dict(), student.state_dict())
