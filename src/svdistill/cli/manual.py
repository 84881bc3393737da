"""The manual pages' texts."""

from __future__ import annotations

COMMANDS = {
    "demo": "see a student learn from its teacher, on digits",
    "train": "train a network on labelled images",
    "distill": "train a student with its teacher's knowledge",
    "evaluate": "accuracy of a trained network",
    "info": "a network's stages, parameters and FLOPs",
}
MANUAL = """\
Knowledge distillation by singular value decomposition: a small network learns from a big one by
relating its own feature maps as the big one relates its own.

A first look, on digits, in under three minutes:
  svdistill demo

The usual way:
  svdistill train   --network vgg_teacher --data parquet:cifar100 --output runs/teacher
  svdistill distill --network vgg_student --data parquet:cifar100 --teacher runs/teacher \\
                    --output runs/student
  svdistill evaluate runs/student
"""
RUN_FILES = """\
files in the run directory:
  config.yaml               the options, to run again with --config
  environment.json          machine and versions
  metrics.jsonl             one line an epoch
  student.safetensors       weights after the last epoch
  student-best.safetensors  weights after the best epoch, by the dev split if there is one
  checkpoint.pt             to --resume from; removed when the run is finished
  tensorboard/              for `tensorboard --logdir`
  summary.json              what came out; its presence marks a finished run
"""
EXIT_STATUS = """\
exit status:
  0 done   2 bad input, or a run that cannot go on: one line says what to do   130 interrupted
"""
TRAIN_MANUAL = """\
Train a network of the seed on labelled images, and leave a run directory. The result is a
teacher for `svdistill distill`, or the student alone to compare with.

Options come from flags, from a YAML file (--config), or both; the later one counts.
"""
TRAIN_EXAMPLES = """\
examples:
  svdistill train --network mobilenet_teacher --data parquet:cifar100 --output runs/teacher
  svdistill train --network vgg_student --width 0.5 --epochs 30 --schedule one_cycle \\
                  --learning_rate 0.03 --output runs/short
  svdistill train --config runs/short/config.yaml --seed 1 --output runs/short-1
"""
DISTILL_MANUAL = """\
Train a student on labelled images and on its teacher's knowledge, and leave a run directory.

The teacher is a run directory, a .safetensors file, or `module:attr` of your own code. With
--loss svd both networks' stages are decomposed, and the student learns to relate its leading
singular vectors as its teacher does; tapped stages need the same number of channels.

Options come from flags, from a YAML file (--config), or both; the later one counts.
"""
DISTILL_EXAMPLES = """\
examples:
  svdistill distill --teacher runs/teacher --network mobilenet_student --data parquet:cifar100 \\
                    --output runs/svd
  svdistill distill --teacher runs/teacher --loss soft_target --clip none --task_weight 0.1 \\
                    --transfer_weight 0.9 --network mobilenet_student --output runs/soft
  svdistill distill --teacher my_package.nets:teacher --teacher_taps layer1,layer2 \\
                    --student_taps stage1,stage2 --network vgg_student --output runs/own
"""
EVALUATE_MANUAL = """\
Accuracy and loss of a trained network on the test split. Without --data, on the data that the
run was trained for.
"""
INFO_MANUAL = """\
Stages, tap shapes, parameters and FLOPs (2 x multiply-adds) of a network, next to what the
seed's table says. Without a name, all networks.
"""
DEMO_MANUAL = """\
Teacher, student alone, soft target, FSP and SVD on scikit-learn's digits: one table. Nothing is
downloaded, two CPU cores are enough, and the runs stay on disk.
"""
