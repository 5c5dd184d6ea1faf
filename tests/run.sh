#!/usr/bin/env bash
# Installs what the tests need, builds penstock and runs the whole suite by ctest. Runs again without harm.
set -euo pipefail
cd "$(dirname "$0")/.."
./cmake/install_dependencies.sh build tests
cmake -S . -B build/tests -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo
cmake --build build/tests
ctest --test-dir build/tests --output-on-failure -j "$(nproc)"
