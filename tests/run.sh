#!/usr/bin/env bash
# Installs what the tests need, builds penstock and runs the suite by ctest: with gcc and CUDA, and again with the pread pool as engine.
# Runs again without harm; ends with the ctest summaries, and with 1 if any test failed.
#
#   tests/run.sh [--quick | --all]      --quick: the first of these only; --all: also under ASan+UBSan, under TSan, and built by clang
#
# The CUDA code is always built, which needs no GPU: where no toolkit is installed its headers are fetched. Where they cannot be, the rest
# is tested all the same and the run counts as failed; PENSTOCK_CUDA=OFF in the environment leaves CUDA out on purpose.
set -euo pipefail
cd "$(dirname "$0")/.."

quick=false
all=false
case ${1-} in
  "") ;;
  --quick) quick=true ;;
  --all) all=true ;;
  -h | --help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
  *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

jobs=2
[ "$(nproc)" -le "$jobs" ] || jobs=$(nproc)
launcher=()
! command -v ccache > /dev/null || launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache -DCMAKE_C_COMPILER_LAUNCHER=ccache)
logs=build/test-logs
mkdir -p "$logs"
failed=()
passed=()

say() { printf '\n== %s (%d s)\n' "$*" "$SECONDS"; }

configure() { cmake --preset "$1" "${launcher[@]}" > "$logs/configure-$1.log" 2>&1; }

# build PRESET: a failure ends the script, for there is nothing to test then.
build() {
  say "build $1"
  configure "$1" || { cat "$logs/configure-$1.log"; exit 1; }
  cmake --build "build/$1" -j "$jobs"
}

# suite NAME PRESET [ctest argument...]: a failure is kept for the end, so that one run shows all there is to mend.
suite() {
  local name=$1 preset=$2
  shift 2
  say "test $name"
  if ctest --test-dir "build/$preset" --output-on-failure --no-tests=error -j "$jobs" "$@" 2>&1 | tee "$logs/$name.log"; then
    passed+=("$name")
  else
    failed+=("$name")
  fi
}

./cmake/install_dependencies.sh build tests launchers

main=gpu
if [ "${PENSTOCK_CUDA:-}" = OFF ]; then
  main=host-only
else
  say "find a CUDA toolkit, or fetch one"
  if ! configure gpu && grep -q 'PENSTOCK_CUDA=ON, but there is no CUDA toolkit' "$logs/configure-gpu.log"; then
    main=host-only
    failed+=(cuda)
    grep 'fetch_cuda.sh:' "$logs/configure-gpu.log" | tee "$logs/cuda.log"
    echo "The CUDA code is not built: the rest is tested without it, and the run counts as failed."
  fi
fi
build "$main"
suite gcc "$main"
if ! $quick; then
  # The same programs once more: a loader that is not told an engine takes this one.
  PENSTOCK_ENGINE=threads suite gcc-engine-threads "$main" -LE 'slow|docs'
fi
if $all; then
  build asan
  suite asan-ubsan asan -LE 'slow|figures|docs'
  build tsan
  suite tsan tsan -LE 'slow|figures|docs'
  build clang
  suite clang clang -LE 'slow|docs'
fi

say "summary"
# What failed comes last, where it is seen.
for name in "${passed[@]}" "${failed[@]}"; do
  echo "-- $name"
  if [ "$name" = cuda ]; then cat "$logs/cuda.log"; else sed -n '/ tests passed, /,$p' "$logs/$name.log"; fi
done
[ ${#failed[@]} -eq 0 ]
