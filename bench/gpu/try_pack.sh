#!/usr/bin/env bash
# Packs, unpacks elsewhere, and runs what came out with an environment of its own: what CI can try of bench/gpu/run.sh without a GPU.
#   try_pack.sh BUILD_FOLDER
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$here/pack.sh" "$1" "$scratch/packed"
mkdir "$scratch/elsewhere"
tar -C "$scratch/elsewhere" -xzf "$scratch/packed.tar.gz"
rm -rf "$scratch/packed"
cd "$scratch/elsewhere"
env -i PATH="$PATH" HOME="$scratch" packed/run.sh --dry-run --out "$scratch/results" --data "$scratch/data"
for result in summary.txt tests.log gpu_bench.json gpu_bench.md; do
  [ -s "$scratch/results/$result" ] || { echo "no $result"; exit 1; }
done
# It measured something, and where there is no GPU it says so of what it left out.
grep -q '"value"' "$scratch/results/gpu_bench.json"
[ -e /dev/nvidia0 ] || grep -q '"skipped": "no GPU"' "$scratch/results/gpu_bench.json"
# A library that is missing, and a test that fails, are seen.
mv packed/lib/libstdc++.so.6 packed/lib/hidden
if env -i PATH="$PATH" packed/run.sh --dry-run --out "$scratch/none" --data "$scratch/data" > "$scratch/none.log" 2>&1; then
  # The machine may have its own; then it is not the pack's.
  cat "$scratch/none.log"; echo "a pack without libstdc++ was not noticed"; exit 1
fi
