"""Distillation in Hugging Face's Trainer: a subclass whose step leaves `.grad` to the Distiller.

    pip install 'svdistill[zoo]'
    python examples/hf_trainer.py

The Trainer's model is the student, which it evaluates, saves and moves to its device. Schedules,
callbacks, gradient accumulation and clipping of the gradient's norm work as usual. For one device,
in float32 or bf16.
"""

import tempfile
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from transformers import (
    EvalPrediction,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

import svdistill as sd


class DistillationTrainer(Trainer):
    """A Trainer whose model also learns from a teacher.

    Args:
        distiller: its student is the Trainer's model.
        arguments: of the Trainer.
    """

    def __init__(self, *, distiller: sd.Distiller, **arguments: Any) -> None:
        super().__init__(model=distiller.student, **arguments)
        self.distiller = distiller.to(self.args.device)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Optimise the student, and the adapters, which are not part of it."""
        optimizer = super().create_optimizer(self.distiller)
        # The Trainer clears only the gradients of its model.
        optimizer.register_step_post_hook(lambda optimizer, *_: optimizer.zero_grad())
        return optimizer

    def get_batch_samples(self, *arguments: Any) -> tuple[list[Any], Any]:
        """Announce the batches of one optimizer step, whose gradients are those of one batch."""
        batches, items = super().get_batch_samples(*arguments)
        if batches:
            self.step_images = sum(len(batch["labels"]) for batch in batches)
            self.distiller.accumulate(self.step_images)
        return batches, items

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Add the gradients of one batch to `.grad`; the Trainer makes the optimizer's step."""
        self.distiller.train()
        inputs = self._prepare_inputs(inputs)
        out = self.distiller(inputs["pixel_values"])
        task_loss = F.cross_entropy(out.logits, inputs["labels"])
        # Not divided: the Distiller applies each batch's share of the step.
        self.distiller.backward(task_loss, out, progress=self.state.epoch or 0)
        return task_loss.detach() * len(inputs["labels"]) / self.step_images


class Digits(torch.utils.data.Dataset):
    """Digits as dictionaries of tensors, as the Trainer's collator expects."""

    def __init__(self, chosen: slice) -> None:
        digits = load_digits()
        self.images = torch.tensor(digits.images[chosen] / 16, dtype=torch.float32)[:, None]
        self.labels = torch.tensor(digits.target[chosen])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": self.images[index], "labels": self.labels[index]}


def vision_transformer(layers: int, channels: int) -> ViTForImageClassification:
    """Build a small network for digits: 16 patches of 2 x 2 pixels."""
    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        hidden_size=channels,
        intermediate_size=2 * channels,
        num_attention_heads=4,
        num_hidden_layers=layers,
        initializer_range=0.2,  # the usual 0.02 is for hundreds of channels
    )
    config.num_labels = 10
    return ViTForImageClassification(config)


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Compute the share of correct predictions."""
    correct = np.argmax(prediction.predictions, axis=1) == prediction.label_ids
    return {"accuracy": float(correct.mean())}


def main() -> None:
    """Train a teacher, then its student."""
    torch.manual_seed(0)
    train, test = Digits(slice(1400)), Digits(slice(1400, None))
    teacher = vision_transformer(layers=3, channels=48)
    student = vision_transformer(layers=2, channels=32)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=4,
            per_device_train_batch_size=32,
            gradient_accumulation_steps=2,
            learning_rate=5e-3,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        )
        Trainer(teacher, arguments, train_dataset=train).train()

        taps = sd.pair_taps(teacher, student, train.images[:2])
        print(taps)
        distiller = sd.Distiller(
            teacher,
            student,
            sd.PositionGramLoss(),
            taps=taps,
            clip="amortised",
            unclipped=sd.SoftTargetLoss(),
        )
        trainer = DistillationTrainer(
            distiller=distiller,
            args=arguments,
            train_dataset=train,
            eval_dataset=test,
            compute_metrics=accuracy,
        )
        trainer.train()
        print(f"test accuracy {100 * trainer.evaluate()['eval_accuracy']:.1f} %")


if __name__ == "__main__":
    main()
