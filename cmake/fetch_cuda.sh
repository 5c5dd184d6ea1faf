#!/bin/sh
# Puts what penstock needs of CUDA 13.0 into a folder, from the nvidia-cuda-* packages that pip installs, for machines without
# an installed CUDA toolkit. Nothing else on the system changes, and no root is needed.
#
#   cmake/fetch_cuda.sh [FOLDER]     (default: ${XDG_CACHE_HOME:-~/.cache}/penstock/cuda-13.0)
#
# The last line printed is the folder: a CUDA toolkit root (bin, include, lib64) for CUDAToolkit_ROOT, with headers, the static and
# shared runtime, nvcc, NVTX and nvJPEG; about 300 MB. penstock itself needs headers, libcudart_static.a, and nvcc for its few kernels;
# examples/04_jpeg_gpu nvJPEG. A folder that is complete is left as it is; a second caller waits for the first.
# Needs python3 with pip, or python3-venv.
set -eu

case "${1-}" in -h|--help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0;; esac
folder=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/penstock/cuda-13.0}
packages='nvidia-cuda-runtime==13.0.* nvidia-cuda-crt==13.0.* nvidia-cuda-cccl==13.0.*
          nvidia-cuda-nvcc==13.0.* nvidia-nvvm==13.0.* nvidia-nvtx==13.0.* nvidia-nvjpeg==13.0.*'

mkdir -p "$(dirname "$folder")"
if command -v flock >/dev/null 2>&1; then
  exec 9>"$folder.lock"
  flock 9
fi
if [ -e "$folder/.complete" ]; then
  echo "$folder"
  exit 0
fi

work=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
echo "fetch_cuda.sh: installing CUDA 13.0 packages into $folder" >&2
if python3 -m pip --version >/dev/null 2>&1; then
  pip="python3 -m pip"
elif python3 -m venv "$work/venv" >/dev/null 2>&1; then
  pip="$work/venv/bin/python -m pip"
else
  echo "fetch_cuda.sh: python3 has neither pip nor venv: install python3-venv (Debian: apt-get install python3-venv)" >&2
  exit 1
fi
# shellcheck disable=SC2086  # both are lists of words
$pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --only-binary=:all: \
     --target "$work/site" $packages >&2 || {
  echo "fetch_cuda.sh: pip could not install the packages, see above: is there a network, and has pip's index (PIP_INDEX_URL) got them?" >&2
  echo "fetch_cuda.sh: an installed toolkit does as well (-DCUDAToolkit_ROOT=FOLDER); -DPENSTOCK_CUDA=OFF builds without CUDA" >&2
  exit 1
}
# All 13.0 packages share this folder.
root=$work/site/nvidia/cu13
for file in include/cuda_runtime_api.h include/cuda.h lib/libcudart_static.a bin/nvcc; do
  if [ ! -e "$root/$file" ]; then
    echo "fetch_cuda.sh: the packages have no $file" >&2
    exit 1
  fi
done

# Packages carry versioned libraries in lib; a toolkit has lib64, and the names a linker looks for.
ln -sfn lib "$root/lib64"
for library in "$root"/lib/*.so.*; do
  if [ -e "$library" ]; then
    name=$(basename "$library")
    ln -sfn "$name" "$root/lib/${name%%.so.*}.so"
  fi
done
chmod -R u+w "$root"
: > "$root/.complete"
rm -rf "$folder"
mv "$root" "$folder"
echo "$folder"
