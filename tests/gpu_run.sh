#!/usr/bin/env bash
# tests/gpu_run.py, which says what this does; its flags follow: bash tests/gpu_run.sh --minutes 5
# PYTHON: the interpreter, OUT: where the results go. Wheels in .whl/, for a machine without a network, are used.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
if compgen -G ".whl/*.whl" >/dev/null; then
  site=$(mktemp -d)
  "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" .whl/*.whl
  export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
exec "$python" -u -m tests.gpu_run --out "${OUT:-runs/gpu}" "$@"
