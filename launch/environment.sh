#!/usr/bin/env bash
# Makes (once) the project's .venv from requirements.txt and activates it. Sourced by the other scripts.
# PYTHON=python3.12 chooses the interpreter; a finished environment is reused until requirements.txt changes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

pick_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "No Python >= 3.11 found. Install one, or name it: PYTHON=/path/to/python $0" >&2
  return 1
}

make_environment() {
  local wanted="$1" # extra requirement files or packages' marker, part of the stamp
  local stamp
  stamp="$(cat requirements.txt pyproject.toml | cksum) $wanted"
  if [ -f .venv/.stamp ] && [ "$(cat .venv/.stamp)" = "$stamp" ]; then
    return
  fi
  echo "Setting up .venv (about a minute, 1 GB)..."
  local python
  python="$(pick_python)"
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[$wanted]"
  echo "$stamp" >.venv/.stamp
}

make_environment "${SIGMA_EXTRAS:-dev}"
# shellcheck disable=SC1091
. .venv/bin/activate
