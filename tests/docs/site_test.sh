#!/usr/bin/env bash
# Builds the site, and follows every link of the pages that came out.
#   site_test.sh SOURCE_DIR
set -euo pipefail
cd "$1"
docs/tools/build.sh
python3 tests/docs/check_site.py build/docs-site
