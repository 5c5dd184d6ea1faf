#!/usr/bin/env bash
# Builds the site of docs/ into build/docs-site. A link or an anchor that leads nowhere fails.
#   docs/tools/build.sh [--serve]     --serve: show the site at http://127.0.0.1:8000, and build it again when a page changes
# Exit status: 77 where the packages of docs/requirements.txt cannot be installed (no package registry).
set -euo pipefail
cd "$(dirname "$0")/../.."
env=build/docs-env
stamp=$env/requirements.txt
mkdir -p build
exec 9> build/docs-env.lock
flock 9
if ! cmp -s docs/requirements.txt "$stamp"; then
  rm -rf "$env"
  python3 -m venv "$env" || { echo "skipped: python3 has no venv (cmake/install_dependencies.sh tests)"; exit 77; }
  "$env/bin/pip" install -q --disable-pip-version-check -r docs/requirements.txt > build/docs-env.log 2>&1 ||
    { echo "skipped: docs/requirements.txt cannot be installed here: $(tail -n 1 build/docs-env.log)"; exit 77; }
  cp docs/requirements.txt "$stamp"
fi
# The theme's makers announce other programs here; that is no message of a build.
export NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true
if [ "${1-}" = --serve ]; then exec "$env/bin/mkdocs" serve --strict; fi
# Not --quiet: it hides the warnings that --strict counts.
"$env/bin/mkdocs" build --strict --site-dir build/docs-site 2>&1 | grep -v '^INFO'  || [ "${PIPESTATUS[0]}" = 0 ]
echo "build/docs-site: $(find build/docs-site -name '*.html' | wc -l) pages"
