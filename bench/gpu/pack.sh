#!/usr/bin/env bash
# Packs what bench/gpu/run.sh needs into one folder and a tar file, to be taken to a machine with a GPU that has neither compilers nor a
# network: programs (debug information stripped), the shared libraries that they need beyond the C library's, and run.sh.
#
#   bench/gpu/pack.sh [BUILD_FOLDER] [OUT]      (build/gpu, BUILD_FOLDER/gpu-pack; OUT.tar.gz is made beside it)
#
# The programs must have been built: cmake --build BUILD_FOLDER --target gpu_pack. The machine's C library must be at least as new as the
# one here (printed at the end). libstdc++ and the others travel with them, and the CUDA runtime is linked in. Libraries travel rather than
# being linked in since not all of them exist as archives (Debian's ISA-L does not).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
build=${1:-$here/../../build/gpu}
out=${2:-$build/gpu-pack}
limit_mib=60

programs=(tests/gpu/gpu_test tests/gpu/gpu_loader_test bench/gpu/gpu_bench bench/make_files bin/penstock lib/capi/libpenstock.so)
rm -rf "$out" "$out.tar.gz"
mkdir -p "$out/bin" "$out/lib"
for program in "${programs[@]}"; do
  if [ ! -x "$build/$program" ]; then
    echo "pack.sh: $build/$program is not there: cmake --build $build --target gpu_pack (a build with PENSTOCK_CUDA=ON)" >&2
    exit 1
  fi
  cp "$build/$program" "$out/bin/"
  strip "$out/bin/$(basename "$program")"
  # The C library's own parts belong to the machine's kernel and loader, and are there.
  ldd "$build/$program" | awk '$2 == "=>" && $3 ~ /^\// {print $3}' |
    grep -Ev '/(libc|libm|libdl|librt|libpthread|ld-linux[^/]*)\.so' | while read -r library; do
      [ -e "$out/lib/$(basename "$library")" ] || cp -L "$library" "$out/lib/"
    done
done
# The Python package, for machines that have PyTorch: its own library lies in bin beside the programs.
cp "$here/run.sh" "$here/torch_step.py" "$out/"
ln -s ../lib "$out/bin/penstock.libs"
mkdir "$out/python"
cp -r "$here/../../python/src/penstock" "$out/python/"
find "$out/python" -name __pycache__ -prune -exec rm -r {} +
size_kib=$(du -sk "$out" | cut -f1)
if [ "$size_kib" -gt $((limit_mib * 1024)) ]; then
  echo "pack.sh: $out has $size_kib KiB, more than $limit_mib MiB" >&2
  exit 1
fi
tar -C "$(dirname "$out")" -czf "$out.tar.gz" "$(basename "$out")"
echo "pack.sh: $out, $((size_kib / 1024)) MiB; needs $(ldd --version | sed -n '1s/.* /glibc /p') or newer"
