#!/bin/sh
# Measure the steps of docs/speed.md and README.md again, and write their tables and plots.
#
#     benchmarks/measure_speed.sh [DATA]    # images as for `train`; noise without
#
# About eleven minutes on two idle cores: run nothing beside it. Needs svdistill and torchdistill
# (see docs/speed.md) in the environment.
set -eu
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD/src:$PWD/benchmarks"
data=${1:+--data $1}
python -m svdistill bench step --rounds 3 --threads 2 --device cpu $data
python -m svdistill bench growth --rounds 3 --threads 2 --device cpu
python benchmarks/plot_step.py
python benchmarks/write_tables.py
