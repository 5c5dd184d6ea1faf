#!/usr/bin/env bash
# Builds a wheel that carries a built library, installs it into an empty environment and reads a data set there, with a PATH that has no
# compiler, no CMake and none of the source tree.
#   wheel_test.sh PYTHON LIBRARY WORK_DIR
set -euo pipefail
python=$1 library=$2 work=$3
here=$(cd "$(dirname "$0")" && pwd)
skip() { echo "skipped: $*"; exit 77; }

rm -rf "$work"
mkdir -p "$work"
"$python" -m venv "$work/build" > /dev/null 2>&1 || skip "$python has no venv (cmake/install_dependencies.sh tests)"
"$work/build/bin/pip" install -q --disable-pip-version-check scikit-build-core > "$work/backend.log" 2>&1 ||
  skip "the build backend cannot be installed here: $(tail -n 1 "$work/backend.log")"
# A copy, so that what the build leaves behind stays out of the source tree; the header has the version.
mkdir -p "$work/tree/include/penstock"
cp -r "$here/.." "$work/tree/python"
cp "$here/../../include/penstock/version.h" "$work/tree/include/penstock/"
# CMake and a generator are needed to build a wheel, a compiler is not: none is on this PATH.
mkdir "$work/bin"
for tool in cmake ninja objdump; do ln -s "$(command -v "$tool")" "$work/bin/$tool"; done
PATH="$work/bin" PENSTOCK_LIBRARY="$library" "$work/build/bin/python" -m pip wheel -q --disable-pip-version-check --no-build-isolation \
  --no-deps -w "$work" "$work/tree/python"
wheel=$(echo "$work"/penstock-*.whl)
case $wheel in *-py3-none-*linux*.whl) ;; *) echo "not a wheel for every Python 3 of a platform: $wheel"; exit 1 ;; esac

"$python" -m venv "$work/empty"
"$work/empty/bin/pip" install -q --disable-pip-version-check --no-index "$wheel"
mkdir -p "$work/data/a" "$work/data/b"
for i in 1 2 3 4; do echo "sample $i" > "$work/data/a/$i"; echo "sample $i" > "$work/data/b/$i"; done
cd "$work"
env -i PATH=/nowhere HOME="$work" "$work/empty/bin/python" - "$work/data" <<'PROGRAM'
import pathlib, sys
import penstock
assert "empty" in penstock.__file__, penstock.__file__
assert (pathlib.Path(penstock.__file__).parent / "py.typed").exists()
assert (pathlib.Path(penstock.__file__).parent / "_option_types.pyi").exists()
seen = sorted(bytes(sample) for batch in penstock.Loader(sys.argv[1], batch_size=3, tail="partial") for sample in batch)
assert seen == sorted(2 * [f"sample {i}\n".encode() for i in range(1, 5)]), seen
# It carries what it needs: nothing but the libraries of every system is taken from elsewhere.
package = str(pathlib.Path(penstock.__file__).parent)
mapped = {line.split()[-1] for line in open("/proc/self/maps") if ".so" in line}
carried = {path for path in mapped if path.startswith(package)}
assert any("libabsl" in path for path in carried) and any("libisal" in path for path in carried), carried
elsewhere = {path for path in mapped - carried if "libabsl" in path or "libisal" in path or "libnuma" in path or "liburing" in path}
assert not elsewhere, elsewhere
print("penstock", penstock.__version__, "read", len(seen), "samples without a compiler")
PROGRAM
echo "$(basename "$wheel"): $(stat -c %s "$wheel") bytes"
