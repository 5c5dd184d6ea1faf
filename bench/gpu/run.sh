#!/usr/bin/env bash
# Proves penstock's GPU path on this machine and measures it, in below 8 minutes: the tests of ctest's label gpu, compute-sanitizer where it
# is installed, then gpu_bench, and a training step of PyTorch where python3 has it (PYTHON=PROGRAM: another). No network, no compiler;
# nothing is installed, and the GPU's settings stay as they are.
#
#   run.sh [--out FOLDER] [--data FOLDER] [--budget SECONDS] [--dry-run]
#     --out FOLDER        results: summary.txt, tests.log, gpu_bench.json, gpu_bench.md (./gpu-results)
#     --data FOLDER       for the data sets, about 1.3 GB, which are kept (/dev/shm/penstock-gpu where there is room, else OUT/data)
#     --budget SECONDS    for all of it (460)
#     --dry-run           without a GPU: everything that needs none, on small data sets; what is left out is said. A fault ends with 1.
#
# It runs in the folder that pack.sh made, or in a source tree, where it takes the programs from build/gpu (BUILD=FOLDER: another) and
# builds them first if they are missing. Ends with 0 when no test failed and, except with --dry-run, there was a GPU.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$PWD/gpu-results
data=
budget=460
dry=false
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=$2; shift 2 ;;
    --data) data=$2; shift 2 ;;
    --budget) budget=$2; shift 2 ;;
    --dry-run) dry=true; shift ;;
    -h | --help) sed -n '2,14s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) sed -n '2,14s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
done
left() { echo $((budget - SECONDS)); }
mkdir -p "$out"
: > "$out/tests.log"
: > "$out/summary.txt"
say() { printf '%s\n' "$*" | tee -a "$out/summary.txt"; }

# ---- the programs ----
if [ -d "$here/bin" ]; then
  gpu_test=$here/bin/gpu_test gpu_loader_test=$here/bin/gpu_loader_test gpu_bench=$here/bin/gpu_bench make_files=$here/bin/make_files
  export LD_LIBRARY_PATH=$here/lib
  torch_step=$here/torch_step.py library=$here/bin/libpenstock.so package=$here/python
else
  build=${BUILD:-$here/../../build/gpu}
  gpu_test=$build/tests/gpu/gpu_test gpu_loader_test=$build/tests/gpu/gpu_loader_test
  gpu_bench=$build/bench/gpu/gpu_bench make_files=$build/bench/make_files
  torch_step=$here/torch_step.py library=$build/lib/capi/libpenstock.so package=$here/../../python/src
  if [ ! -x "$gpu_bench" ] || [ ! -x "$gpu_loader_test" ]; then
    say "building in $build, which is not part of the budget"
    (cd "$here/../.." && cmake --preset gpu > /dev/null && cmake --build "$build" --target gpu_pack -j "$(nproc)" > /dev/null)
    SECONDS=0
  fi
fi
failed=0
# Every program finds all of its libraries, and outside of its folder only the C library's.
for program in "$gpu_test" "$gpu_loader_test" "$gpu_bench" "$make_files" "$library"; do
  if missing=$(ldd "$program" | grep 'not found'); then
    say "FAILED: $program lacks $missing"
    exit 1
  fi
  if [ -d "$here/bin" ]; then
    foreign=$(ldd "$program" | awk '$2 == "=>" {print $3}' | grep -Ev "^$here/(lib|bin/penstock\.libs)/" |
              grep -Ev '/(libc|libm|libdl|librt|libpthread|ld-linux[^/]*)\.so' || true)
    if [ -n "$foreign" ]; then
      say "FAILED: $(basename "$program") takes from this machine: $foreign"
      failed=1
    fi
  fi
done
if command -v nvidia-smi > /dev/null && nvidia-smi -L > /dev/null 2>&1; then
  nvidia-smi --format=csv --query-gpu=name,driver_version,pcie.link.gen.current,pcie.link.width.current,memory.total |
    tee -a "$out/summary.txt"
  gpu=true
else
  say "no GPU here (nvidia-smi finds none)"
  gpu=false
  $dry || { say "FAILED: nothing can be proven without a GPU; --dry-run tries what needs none"; exit 1; }
fi
model=$(grep -m 1 'model name' /proc/cpuinfo || true) nodes=$(cat /sys/devices/system/node/online 2> /dev/null || true)
say "$(uname -r), $(nproc) CPUs, $model, nodes $nodes"

# ---- tests: each case is a process of its own, as under ctest; 77 is "skipped" ----
passed=0 skipped=0
cases() { "$1" --list-test-names-only "$2" | sed 's/^ *//;/^$/d'; }  # Catch2 2: the status is the number of cases
# run_case PREFIX PROGRAM CASE [WRAPPER...]: under a wrapper, which makes it slow, 120 s that were not enough are no fault.
run_case() {
  local name=$3 status=0
  # A comma would part a name.
  timeout 120 "${@:4}" "$2" "${name//,/\\,}" >> "$out/tests.log" 2>&1 || status=$?
  case $status in
    0) passed=$((passed + 1)) ;;
    77) skipped=$((skipped + 1)) ;;
    124) if [ -n "$1" ]; then say "left out for want of time: $1$name"; else failed=1; say "FAILED (120 s): $name"; fi ;;
    *) failed=1; say "FAILED ($status): $1$name" ;;
  esac
}
for program in "$gpu_test" "$gpu_loader_test"; do
  while IFS= read -r name; do
    if [ "$(left)" -lt 240 ] && ! $dry; then say "left out for want of time: $name"; continue; fi
    printf '\n== %s\n' "$name" >> "$out/tests.log"
    run_case "" "$program" "$name"
  done < <(cases "$program" "[gpu]" || true)
done
say "tests: $passed passed, $skipped skipped, $([ $failed = 0 ] && echo none || echo some) failed (tests.log), $SECONDS s"
grep -h '^SKIPPED' "$out/tests.log" | sort | uniq -c | sed 's/^ */  /' | tee -a "$out/summary.txt" || true
if [ $((passed + skipped)) = 0 ]; then say "FAILED: no test ran"; exit 1; fi
if $gpu && [ $skipped -gt 2 ]; then say "FAILED: tests were skipped although there is a GPU"; failed=1; fi

# ---- compute-sanitizer: memory and races of the kernels that read batches, and of those that make them ----
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2> /dev/null || true)
if [ -z "$sanitizer" ] || ! $gpu; then
  say "compute-sanitizer: left out: $([ -z "$sanitizer" ] && echo "it is not installed" || echo "no GPU")"
else
  for tool in memcheck racecheck; do
    for program in "$gpu_test" "$gpu_loader_test"; do
      while IFS= read -r name; do
        if [ "$(left)" -lt 200 ]; then say "left out for want of time: $tool: $name"; continue; fi
        run_case "$tool: " "$program" "$name" "$sanitizer" --tool "$tool" --error-exitcode 1 --leak-check no
      done < <(cases "$program" "[sanitize]" || true)
    done
    say "compute-sanitizer $tool: done at $SECONDS s"
  done
fi

# ---- measurements ----
if [ -z "$data" ]; then
  data=$out/data
  [ "$(df -k --output=avail /dev/shm 2> /dev/null | tail -n 1)" -lt 4000000 ] 2> /dev/null || data=/dev/shm/penstock-gpu
fi
mkdir -p "$data"
# What the training step behind the measurements takes, PyTorch's own start included.
python=${PYTHON:-python3} reserve=0
! "$python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)' 2> /dev/null || reserve=60
if $dry; then
  files=60 seconds=0.3
else
  files=2000
  seconds=$(( ($(left) - 60 - reserve) / 60 ))   # about 45 rows of it, beside the copies
  [ "$seconds" -ge 1 ] || seconds=1
  [ "$seconds" -le 5 ] || seconds=5
fi
"$make_files" "$data/retinanet" --count "$files" --bytes 322957 --classes 10 > /dev/null
"$make_files" "$data/resnet" --count $((files * 6)) --bytes 110000 --classes 10 > /dev/null
limit=$(( $(left) - reserve > 60 ? $(left) - reserve : 60 ))
if timeout "$limit" "$gpu_bench" --data "$data" --out "$out" --seconds "$seconds" > "$out/gpu_bench.log" 2>&1; then
  figures=$(grep -c '"value"' "$out/gpu_bench.json" || true) without=$(grep -c '"skipped"' "$out/gpu_bench.json" || true)
  say "gpu_bench: $figures figures, $without left out (gpu_bench.md), $SECONDS s"
else
  say "FAILED: gpu_bench, see gpu_bench.log"
  tail -n 5 "$out/gpu_bench.log" | tee -a "$out/summary.txt"
  failed=1
fi
if grep '^| samples whose CRC' "$out/gpu_bench.md" | grep -v 'not measured' | grep -qv '| 0 samples |'; then
  say "FAILED: wrong bytes on the GPU, see gpu_bench.md"
  failed=1
fi

# ---- beside a real training step ----
step=(--out "$out/torch_step.json" --seconds 20)
! $dry || step=(--out "$out/torch_step.json" --seconds 4 --device -1 --batch 4 --width 8)
status=0
if ! command -v "$python" > /dev/null; then
  say "torch_step: left out: no $python"
else
  # Not the pack's C++ library for all of PyTorch: it has one of its own, and penstock's own ones are found by it.
  env -u LD_LIBRARY_PATH PENSTOCK_LIBRARY="$library" PYTHONPATH="$package" PYTHONDONTWRITEBYTECODE=1 \
    timeout "$(( $(left) > 40 ? $(left) : 40 ))" "$python" "$torch_step" "$data/resnet" "${step[@]}" > "$out/torch_step.log" 2>&1 || status=$?
  case $status in
    0) say "torch_step: $(sed -n 's/^ *"\(device\|samples_per_s\|next_share\|accelerator_utilisation\)": */\1 /p' "$out/torch_step.json" | tr '\n' ' ')" ;;
    124) say "left out for want of time: torch_step" ;;
    77) say "torch_step: $(tail -n 1 "$out/torch_step.log")" ;;
    *) say "FAILED ($status): torch_step, see torch_step.log"; tail -n 3 "$out/torch_step.log" | tee -a "$out/summary.txt"; failed=1 ;;
  esac
fi
$dry && grep '"skipped"' "$out/gpu_bench.json" | sort | uniq -c | sed 's/^ */  /' || true
if $gpu && $dry; then say "there is a GPU here: run again without --dry-run"; fi
exit $failed
