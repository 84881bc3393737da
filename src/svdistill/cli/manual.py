"""The manual pages' texts."""

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
Knowledge distillation by singular value decomposition: a small network learns from a big one by
relating its own feature maps as the big one relates its own.

A first look, on digits, in under three minutes:
  svdistill demo

The usual way:
  svdistill train   --network vgg_teacher --data parquet:cifar100 --output runs/teacher
  svdistill distill --student vgg_student --data parquet:cifar100 --teacher runs/teacher \\
                    --output runs/student
  svdistill evaluate runs/student

With other networks, on images in folders of their classes:
  svdistill train   --network timm:resnet50 --weights pretrained --data folder:flowers \\
                    --output runs/teacher
  svdistill distill --student timm:mobilenetv3_small_100 --weights pretrained \\
                    --data folder:flowers --teacher runs/teacher --output runs/student
"""

RUN_FILES = """\
files in the run directory:
  config.yaml               the options, to run again with --config
  environment.json          machine and versions
  metrics.jsonl             one line an epoch
  student.safetensors       weights after the last epoch
  student-best.safetensors  weights after the best epoch, by the dev split if there is one
  checkpoint.pt             to --resume from, with the one before it, checkpoint-previous.pt; both
                            are removed when the run is finished
  tensorboard/              for `tensorboard --logdir`
  before_after.json         teacher, student before and student after (distill)
  report.html               all of it on one page (distill)
  summary.json              what came out; its presence marks a finished run
"""

EXIT_STATUS = """\
exit status:
  0 done   2 bad input, or a run that cannot go on: one line says what to do
  130 stopped by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP: the step was finished and saved, the line
      says how to go on
  141 evaluate, info: the result could not be printed; commands that leave files go on without
"""

TRAIN_MANUAL = """\
Train a network on labelled images, and leave a run directory. The result is a teacher for
`svdistill distill`, or the student alone to compare with.

A network is one of `svdistill info`, timm:NAME, torchvision:NAME, hf:NAME_OR_FOLDER (an image
classifier of transformers), or module:attr of your own code. With --weights pretrained it starts
from its published weights, sees images as these were trained on, and gets a new head where they
are of other classes.

Options come from flags, from a YAML file (--config), or both; the later one counts.
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
Train a student on labelled images and on its teacher's knowledge, and leave a run directory.

The teacher is a run directory, a .safetensors file, `module:attr` of your own code, or timm:NAME,
torchvision:NAME, hf:NAME_OR_FOLDER with published weights for the very classes of the data. The
student, --student or --network, is as for `svdistill train`.

Both networks' stages are decomposed; which ones, is shown. Of each the student learns which
positions go together, as its teacher has it, and beside this the teacher's predictions: --loss
position_svd+soft_target, which takes channels as they are. With --loss svd it learns to relate the
leading singular vectors of its channels, as in the paper; where channels differ, an adapter
projects the student's, which is no part of the trained student.

Options come from flags, from a YAML file (--config), or both; the later one counts.
"""

DISTILL_EXAMPLES = """\
examples:
  svdistill distill --teacher runs/teacher --network mobilenet_student --data parquet:cifar100 \\
                    --output runs/svd
  svdistill distill --teacher runs/teacher --loss soft_target --clip none --task_weight 0.1 \\
                    --transfer_weight 0.9 --network mobilenet_student --output runs/soft
  svdistill distill --teacher my_package.nets:teacher --teacher_taps [layer1,layer2] \\
                    --student_taps [stage1,stage2] --student vgg_student --output runs/own
  svdistill distill --teacher runs/teacher --student timm:mobilenetv3_small_100 \\
                    --weights pretrained --data folder:flowers --output runs/small
  svdistill distill --knowledge stores/vgg --network vgg_student --data parquet:cifar100 \\
                    --output runs/from-store
"""

LOSSES = """\
losses, for --loss, alone or joined by +, with the options that they read:
"""

CACHE_MANUAL = """\
Compute a teacher's knowledge of every training image once, and keep it in a store on disk. Then
`svdistill distill --knowledge STORE` trains students without running the teacher, and without its
weights. The store holds so many random views of each image; students see the same ones.

A store belongs to one teacher, data set, loss and augmentation, and is refused for others.
"""

CACHE_EXAMPLES = """\
examples:
  svdistill cache --teacher runs/teacher --data parquet:cifar100 --views 10 --output stores/vgg
  svdistill cache --teacher runs/teacher --data parquet:cifar100 --views 10 --output stores/vgg \\
                  --resume
  svdistill cache --teacher runs/teacher --loss soft_target --views 10 --output stores/soft

files in the store:
  manifest.json             what it holds, and of what; how many bytes each image takes
  view-0000-from-*.bin      knowledge of some thousand images in one view, with a checksum
"""

EVALUATE_MANUAL = """\
Accuracy and loss of a trained network on the test split. Without --data, on the data that the
run was trained for.
"""

EXPORT_MANUAL = """\
Write a trained network to one file that other programs run, without its teacher: ONNX, or
PyTorch's .pt2. The file takes batches of any size, and says its classes and how images are
prepared for it.

It is run on test images first, and written only if it puts each in the network's own class and
its logits are within 1e-4 of the largest one (with --precision fp16: 99 % of the classes, and
logits within 1e-2). Without --data, on images that the run was tested on; of other data, only the
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

to use it, with onnxruntime and numpy alone:
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
Stages, tap shapes, parameters and FLOPs (2 x multiply-adds) of a network; of one of the paper's,
next to what the paper's table says. Without a name, all of the paper's.

Others are timm:NAME, torchvision:NAME, hf:NAME_OR_FOLDER and module:attr. Of these it shows the
stages, of which `svdistill distill` taps some.
"""

DEMO_MANUAL = """\
Teacher, student alone, soft target, FSP, SVD and the default loss on scikit-learn's digits: one
table. Nothing is downloaded, two CPU cores are enough, and the runs stay on disk.
"""

REPRODUCE_MANUAL = """\
Make the runs of one of the paper's tables or figures: teachers first, then their students by every
method. Finished runs are skipped and stopped ones go on, so it can be made in pieces. At the end,
a table for each pair of networks, and one page with everything.

  networks   teacher, student alone, soft target, FSP and SVD, for each pair of networks
  multitask  one stage (task and transfer at once) against two
  dfv        the number of singular vectors, 1 to 16
  large      images of 64x64: Tiny-ImageNet, or 50 classes of ImageNet

presets:
  smoke  seconds, on digits: shows that everything runs
  mini   hours on two CPU cores: 20 classes of CIFAR-100, half width, 24 epochs
  seed   the full protocol: CIFAR-100, 200 epochs; for a GPU
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
Write finished runs as one HTML page: accuracies beside the paper's, training curves, what accuracy
costs, what distillation did to the feature maps, and how each run was made. The page is one file,
which opens from disk and loads nothing.

Nothing is trained. Feature maps are looked at where the weights of a student and of its teacher
are there, and the images; the teacher's run may be among RUNS. The page says what is missing.
"""

REPORT_EXAMPLES = """\
examples:
  svdistill report runs/demo
  svdistill report runs/teacher runs/student-* --data parquet:data/cifar100 -o students.html
"""

BENCH_MANUAL = """\
Time parts side by side in one process, print a table, and leave every time in a JSON file.

  svd   the truncated SVD of the paper's feature maps, by every solver, and how exact it is
  dfv   the distance of two distillation feature vectors: time, memory, exactness
  step  a whole training step, for every way to teach, over the floor that none can do without
"""

BENCH_EXAMPLES = """\
examples:
  svdistill bench step --network vgg --rounds 3
  svdistill bench svd --teacher runs/teacher --data parquet:cifar100 --output svd.json
"""
