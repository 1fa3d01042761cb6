#!/usr/bin/env bash
# The one test command: sets up when needed, then style, types, the import contract and the tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools/setup.sh
PATH=$PWD/.venv/bin:$PATH

ruff check --quiet .
ruff format --check --quiet .
mypy --no-error-summary
contract=$(lint-imports) || { echo "$contract" && exit 1; }
# Tests side by side, each on one thread: threads of two that wait for each other would spin.
OMP_NUM_THREADS=1 pytest --numprocesses auto --cov --cov-report=term:skip-covered --cov-fail-under=90 "$@"
