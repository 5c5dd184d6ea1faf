#!/usr/bin/env python3
"""Runs one file of tests for ctest. A library with sanitizers needs their run time before everything else in the process, which the
interpreter does not bring: this program starts it again with LD_PRELOAD. Exit status 77: skipped."""
import os
import subprocess
import sys

sanitizers = [name for name in os.environ.get("PENSTOCK_TEST_SANITIZERS", "").split(",") if name]
if "thread" in sanitizers:
    print("skipped: an interpreter that was not built for it does not run under ThreadSanitizer")
    sys.exit(77)
try:
    import pytest  # noqa: F401
except ImportError:
    print(f"skipped: {sys.executable} has no pytest (cmake/install_dependencies.sh tests)")
    sys.exit(77)

environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
if "address" in sanitizers:
    compiler = os.environ.get("CXX", "c++")
    library = subprocess.run([compiler, "-print-file-name=libasan.so"], stdout=subprocess.PIPE, check=True, text=True).stdout.strip()
    # The interpreter itself leaves memory behind at its end.
    environment.update(LD_PRELOAD=library, ASAN_OPTIONS="detect_leaks=0:" + os.environ.get("ASAN_OPTIONS", ""))
command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *sys.argv[1:]]
os.execve(sys.executable, command, environment)
