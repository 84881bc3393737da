"""The texts of the manual pages that `svdistill --help` and `svdistill COMMAND --help` print."""

from __future__ import annotations

COMMANDS = {
    "demo": "see a student learn from its teacher, on digits",
    "train": "train a network on labelled images",
    "distill": "train a student with its teacher's knowledge",
    "cache": "compute a teacher's knowledge once, for all students",
    "evaluate": "accuracy of a trained network",
    "export": "a trained network as a file for other programs",
    "predict": "the classes of image files, by an exported network",
    "info": "a network's stages, parameters and FLOPs",
    "reproduce": "the paper's tables and figures, run again",
    "report": "finished runs as one page",
    "bench": "what a training step costs, and its parts",
}

MANUAL = """\
Knowledge distillation by singular value decomposition: a small network learns the relations within
a large network's feature maps, and its predictions.

A first look, on digits, in under three minutes:
  svdistill demo

Teacher, student, evaluation:
  svdistill train   --network vgg_teacher --data parquet:cifar100 --output runs/teacher
  svdistill distill --student vgg_student --data parquet:cifar100 --teacher runs/teacher \\
                    --output runs/student
  svdistill evaluate runs/student

Other networks, and images in one folder per class:
  svdistill train   --network timm:resnet50 --weights pretrained --data folder:flowers \\
                    --output runs/teacher
  svdistill distill --student timm:mobilenetv3_small_100 --weights pretrained \\
                    --data folder:flowers --teacher runs/teacher --output runs/student
"""

RUN_FILES = """\
files in the run directory:
  config.yaml               the options, to run again with --config
  environment.json          machine and versions
  metrics.jsonl             one line per epoch
  student.safetensors       weights after the last epoch
  student-best.safetensors  weights after the best epoch, by the dev split if there is one
  checkpoint.pt             to --resume from, and checkpoint-previous.pt, the one before it; both
                            are removed when the run finishes
  tensorboard/              for `tensorboard --logdir`
  before_after.json         teacher, student before and student after (distill)
  report.html               the run on one page (distill)
  predictions.json          classes, confusions and calibration on the test images, for reports
  summary.json              the results; its presence marks a finished run
"""

EXIT_STATUS = """\
exit status:
  0 success   2 bad input, or a run that cannot continue; one line says what to do
  130 stopped by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP; the step was finished and saved, and one
      line says how to continue
  141 evaluate, info: the result could not be printed; other commands continue without output
"""

TRAIN_MANUAL = """\
Train a network on labelled images, and write a run directory. The result is a teacher for
`svdistill distill`, or a student trained alone for comparison.

A network is one of `svdistill info`, timm:NAME, torchvision:NAME, hf:NAME_OR_FOLDER (an image
classifier of transformers), or module:attr of your own code. With --weights pretrained it starts
from its published weights, uses their image size and normalisation, and gets a new head if the
classes differ.

Options come from flags, from a YAML file (--config), or both; the last one given counts.
"""

TRAIN_EXAMPLES = """\
examples:
  svdistill train --network mobilenet_teacher --data parquet:cifar100 --output runs/teacher
  svdistill train --network vgg_student --width 0.5 --epochs 30 --schedule one_cycle \\
                  --learning_rate 0.03 --output runs/short
  svdistill train --config runs/short/config.yaml --seed 1 --output runs/short-1
  svdistill train --network timm:resnet50 --weights pretrained --data folder:flowers \\
                  --learning_rate 0.001 --epochs 10 --output runs/teacher
  svdistill train --network torchvision:resnet18 --weights resnet18.pth --data folder:flowers \\
                  --output runs/teacher
"""

DISTILL_MANUAL = """\
Train a student on labelled images and on its teacher's knowledge, and write a run directory.

The teacher is a run directory, a .safetensors file, `module:attr` of your own code, or timm:NAME,
torchvision:NAME, hf:NAME_OR_FOLDER with published weights for the classes of the data. The
student, --student or --network, is as for `svdistill train`.

The stages of both networks are paired, and the pairs are printed. By default (--loss
position_gram+dist) the student learns from each the relations between positions, whatever the
channels, and the correlations of the teacher's predictions. With --loss svd it learns the
relations between the leading singular vectors of its channels, as in the paper; if the channels
differ, an adapter projects the student's, and is not part of the trained student.

Options come from flags, from a YAML file (--config), or both; the last one given counts.
"""

DISTILL_EXAMPLES = """\
examples:
  svdistill distill --teacher runs/teacher --network mobilenet_student --data parquet:cifar100 \\
                    --output runs/student
  svdistill distill --teacher runs/teacher --network mobilenet_student --data folder:flowers \\
                    --seeds 3 --baseline --output runs/worth
  svdistill distill --teacher runs/teacher --loss soft_target --network mobilenet_student \\
                    --output runs/soft
  svdistill distill --teacher my_package.nets:teacher --teacher_taps [layer1,layer2] \\
                    --student_taps [stage1,stage2] --student vgg_student --output runs/own
  svdistill distill --teacher runs/teacher --student timm:mobilenetv3_small_100 \\
                    --weights pretrained --data folder:flowers --output runs/small
  svdistill distill --knowledge stores/vgg --network vgg_student --data parquet:cifar100 \\
                    --output runs/from-store
"""

LOSSES = """\
losses for --loss, alone or joined by +, with their options:
"""

SEEDS = (
    "Repeat the run with this many seeds, each in a folder in `output`; the same command goes on."
)

BASELINE = (
    "Train the student alone and by plain soft targets too, for 3 seeds if --seeds gives no other "
    "number, and say whether the loss is worth it."
)

CACHE_MANUAL = """\
Compute a teacher's knowledge of every training image once, and keep it in a store on disk. Then
`svdistill distill --knowledge STORE` trains students without the teacher. The store holds --views
random views of each image, and students see the same views.

A store belongs to one teacher, data set, loss and augmentation, and is refused for others.
"""

CACHE_EXAMPLES = """\
examples:
  svdistill cache --teacher runs/teacher --data parquet:cifar100 --views 10 --output stores/vgg
  svdistill cache --teacher runs/teacher --data parquet:cifar100 --views 10 --output stores/vgg \\
                  --resume
  svdistill cache --teacher runs/teacher --loss soft_target --views 10 --output stores/soft

files in the store:
  manifest.json             its contents, their origin, and the bytes per image
  view-0000-from-*.bin      knowledge of some thousand images in one view, with a checksum
"""

EVALUATE_MANUAL = """\
Accuracy and loss of a trained network on the test split of --data, or of the run's own data.
"""

EXPORT_MANUAL = """\
Write a trained network to one file for other programs, without its teacher: ONNX, or PyTorch's
.pt2. The file takes batches of any size, and contains the class names and the preprocessing.

It is first run on test images, and written only if it predicts the network's class for each, with
logits within 1e-4 of the largest one (with --precision fp16: the same class for 99 %, and logits
within 1e-2). Without --data these are the run's test images; of other data, only images of the
network's classes are used.

Resizing is left to the user; --include preprocessing puts scaling and normalisation into the file,
which then takes uint8 images [B, 3, H, W]. --quantize int8 writes a quarter of the size; it is
refused if it loses more than --tolerance points of accuracy on test images.
"""

EXPORT_EXAMPLES = """\
examples:
  svdistill export runs/student
  svdistill export runs/student --data parquet:data/cifar100 --output student.onnx
  svdistill export runs/student --format torch
  svdistill export runs/student --include preprocessing --precision fp16
  svdistill export runs/student --quantize int8 --output student-int8.onnx

to use it with onnxruntime and numpy:
  session = onnxruntime.InferenceSession("student.onnx")
  about = session.get_modelmeta().custom_metadata_map  # JSON: class_names, image_size, mean, std
  mean, std = (numpy.float32(json.loads(about[name])) for name in ("mean", "std"))
  inputs = ((images / numpy.float32(255) - mean) / std).transpose(0, 3, 1, 2)  # [B, H, W, 3] RGB
  logits = session.run(["logits"], {"images": inputs})[0]
"""

PREDICT_MANUAL = """\
Classify image files with a file that `svdistill export` wrote: for each, its most probable classes
and their probabilities. Class names, size and normalisation come from the file.

example:
  svdistill predict runs/student/student.onnx photos/*.jpg
"""

INFO_MANUAL = """\
Stages, tap shapes, parameters and FLOPs (2 x multiply-adds) of a network; for the paper's networks
beside the values of its table. Without a name, all of the paper's.

Others are timm:NAME, torchvision:NAME, hf:NAME_OR_FOLDER and module:attr, shown with the stages
that `svdistill distill` can tap.
"""

DEMO_MANUAL = """\
Teacher, student alone, soft target, FSP, SVD and the default loss on scikit-learn's digits, in one
table. Nothing is downloaded, two CPU cores suffice, and the runs stay on disk.
"""

REPRODUCE_MANUAL = """\
Make the runs of one of the paper's tables or figures: teachers first, then their students by every
method. Finished runs are skipped and stopped ones continue, so that it can be made in pieces. At
the end come a table for each pair of networks, and one page of all runs.

  networks   student alone, soft target, FSP, SVD with variants, and the default, for each pair
  multitask  one stage (task and transfer at once) against two
  dfv        the number of singular vectors, 1 to 16
  rivals     losses of other papers, with their papers' weights, beside ours
  search     four settings of each loss, compared on held-out images
  ablation   position SVD and Gram matrices of positions with one property changed at a time
  large      images of 64x64: Tiny-ImageNet, or 50 classes of ImageNet
  domains    a teacher of 50 classes, students of the others, with all labels or a tenth

presets:
  smoke  seconds: digits, a quarter of the width, 2 epochs
  mini   hours on two CPU cores: 20 classes of CIFAR-100, half width, 24 epochs
  full   about 55 hours of one core for one seed of the table: all 100 classes, full width,
         30 epochs
  paper  the paper's protocol, for a GPU: all 100 classes, full width, 200 epochs
"""

REPRODUCE_EXAMPLES = """\
examples:
  svdistill reproduce networks --preset smoke
  svdistill reproduce networks --preset mini --data parquet:data/cifar100 --dry_run
  svdistill reproduce networks --preset mini --network vgg_stride --method student,svd --seeds 1
  svdistill reproduce networks --preset paper --device cuda --max_seconds 1800
  svdistill reproduce large --preset paper --data tiny_imagenet:data/tiny-imagenet-200
"""

REPORT_MANUAL = """\
Write finished runs as one HTML page: the gain over the student alone with its interval, size and
latency, accuracies beside the paper's, training curves, predictions by class, calibration, and how
each run was made. The page is one file that opens from disk and loads nothing.

Nothing is trained or timed: the page shows what the runs recorded. For a gain give runs of the
student alone too, of the same options and seeds; `svdistill export` records the shipped file's
latency.
"""

REPORT_EXAMPLES = """\
examples:
  svdistill report runs/demo
  svdistill report runs/teacher runs/student-* -o students.html
"""

BENCH_MANUAL = """\
Time computations in turn in one process, print a table, and write every time to a JSON file.

  svd     the truncated SVD of the paper's feature maps by every solver: time and errors
  dfv     the distance of two distillation feature vectors: time, memory and errors
  step    a whole training step of every method, relative to a step without losses (the floor)
  growth  steps of some methods while the batch, the image size or the width grows
"""

BENCH_EXAMPLES = """\
examples:
  svdistill bench step --network vgg --rounds 3
  svdistill bench svd --teacher runs/teacher --data parquet:cifar100 --output svd.json
"""
