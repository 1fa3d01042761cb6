#!/usr/bin/env bash
# Make .venv with gim-audio and its development tools in it; does nothing when that is up to date.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

needed_gb=8 # a CUDA build of torch and its libraries, and what pip unpacks on the way
stamp=.venv/.installed
wanted=$(cksum <pyproject.toml)
if [ -e $stamp ] && [ "$(cat $stamp)" = "$wanted" ] && [ -x .venv/bin/gim-audio ]; then exit 0; fi

fail() {
  echo "tools/setup.sh: $1" >&2
  exit 2
}
python=${PYTHON:-python3}
command -v "$python" >/dev/null || fail "there is no $python: install Python 3.11 or newer, or set PYTHON to one"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11, 4))' ||
  fail "$("$python" --version) is too old: install Python 3.11.4 or newer, or set PYTHON to one"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
  fail "$python cannot make virtual environments: install its venv package (Debian: apt install python3-venv)"
if ! [ -d .venv/lib/python3*/site-packages/torch ]; then
  free_gb=$(($(df -Pk . | awk 'NR == 2 {print $4}') / 1024 / 1024))
  [ "$free_gb" -ge $needed_gb ] || fail "$needed_gb GB of disk are needed for the environment, $free_gb GB are free"
fi
if ! [ -e .venv/bin/pip ]; then
  echo "making .venv (a few minutes; torch is large)"
  "$python" -m venv .venv
fi
.venv/bin/pip install --quiet --disable-pip-version-check --editable '.[dev]' ||
  fail "pip failed: see above; run it again to go on"
echo "$wanted" >$stamp
echo "ready: $(.venv/bin/gim-audio --version)"
