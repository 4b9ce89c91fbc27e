#!/usr/bin/env bash
# Everything to be measured on an accelerator, as one JSON file, in at most nine minutes.
#
#   bash benchmarks/device.sh [--quick] [--mnist FOLDER] [--out FILE]
#
# No network is needed. If there is a folder `wheels` in the repository, all wheels in it are
# installed into an environment of their own (JAX with its CUDA packages, and what the extra `studies`
# needs); otherwise the current Python is used. The four IDX files of MNIST are read from `mnist`.
# `--quick` runs the same code at tiny sizes, on a CPU in about two minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python}
if [ -d wheels ]; then
    "$python" -m venv --clear .venv-device
    .venv-device/bin/python -m pip install --quiet --no-index --no-deps wheels/*.whl
    python=.venv-device/bin/python
fi
# Memory is shared with the commands that the script starts.
export XLA_PYTHON_CLIENT_PREALLOCATE=false
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m benchmarks.device "$@"
