#!/usr/bin/env bash
# The main job, end to end: installs what is needed (Debian 12), builds penstock, writes 70,000 small image files, indexes them and trains a
# small network on them, read by penstock. Runs again without harm, and at once: what is there is kept.
#
#   examples/run.sh [--compare] [argument of 02_training_loop...]
#     --compare    trains a second time, reading through torch's own data set, and demands that both accuracies are within 0.5 points
#     --loader=plain, --epochs=N, ...    see examples/02_training_loop.cc
#
# PENSTOCK_DATA is the folder for data sets (build/data). A GPU is used where Torch_DIR names a libtorch with CUDA.
set -euo pipefail
cd "$(dirname "$0")/.."

compare=false
arguments=()
for argument in "$@"; do
  case $argument in
    --compare) compare=true ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) arguments+=("$argument") ;;
  esac
done
data=${PENSTOCK_DATA:-build/data}/fashion-mnist

step() { printf '\n== %s (%d s)\n' "$*" "$SECONDS"; }

step "1 of 5: Debian packages"
./cmake/install_dependencies.sh build examples

log=build/examples/build.log
mkdir -p build/examples
step "2 of 5: build of penstock and the examples in build/examples, minutes the first time (log: $log)"
options=(-DCMAKE_BUILD_TYPE=Release -DPENSTOCK_TESTS=OFF -DPENSTOCK_BENCH=OFF)
[ -z "${Torch_DIR:-}" ] || options+=("-DTorch_DIR=$Torch_DIR")
! command -v ccache > /dev/null || options+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache -DCMAKE_C_COMPILER_LAUNCHER=ccache)
build=(cmake --build build/examples --target penstock_cli 01_first_batch 02_training_loop)
cmake -S . -B build/examples -G Ninja "${options[@]}" > "$log" 2>&1 || { tail -n 60 "$log"; exit 1; }
if [ -t 1 ]; then "${build[@]}"; else "${build[@]}" >> "$log" 2>&1 || { tail -n 60 "$log"; exit 1; }; fi

step "3 of 5: data set, 70,000 PGM files in $data"
python3 examples/make_dataset.py "$data"
for split in train test; do
  # The manifests are kept beside the lists; the loader looks for them there.
  [ -e "$data/$split.manifest" ] || build/examples/bin/penstock index "$data/$split.txt" --manifest "$data/$split.manifest"
done

step "4 of 5: the first batch of $data/test, labelled by its class folders (examples/01_first_batch.cc)"
build/examples/examples/01_first_batch "$data/test"

# train [argument...]: prints the epochs, and keeps the last accuracy in $accuracy.
train() {
  build/examples/examples/02_training_loop "$data" --expect-accuracy=88 "${arguments[@]}" "$@" | tee build/examples/training.log
  accuracy=$(sed -n 's/^epoch .* test accuracy \([0-9.]*\) %.*/\1/p' build/examples/training.log | tail -n 1)
}

step "5 of 5: training (examples/02_training_loop.cc)"
train
if $compare; then
  penstock_accuracy=$accuracy
  step "and the same, read through torch's own data set"
  train --loader=plain
  awk -v a="$penstock_accuracy" -v b="$accuracy" 'BEGIN {
    d = a - b; if (d < 0) d = -d
    printf "accuracy: penstock %.2f %%, plain %.2f %%, %.2f points apart (at most 0.50)\n", a, b, d
    exit d > 0.5
  }'
fi
