#!/usr/bin/env bash
# All that is measured on a GPU, within some minutes; the last of them train and evaluate a model.
#
#   tools/bench_gpu.sh PACKED [--minutes 8] [--out OUT] [--labelled TRAIN TEST] [--device cuda]
#
# It needs no network. What it measures is in OUT/bench_gpu.md; each part has its own time limit and
# leaves its result whatever the others do.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$here/.venv/bin/python
[ -x "$python" ] || python=python3
export PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH}
exec "$python" "$here/tools/bench_gpu.py" "$@"
