#!/usr/bin/env bash
# Makes (once) the project's .venv from requirements.txt and activates it. Sourced by the other scripts.
#   PYTHON=python3.12        the interpreter (default: the first of 3.11, 3.12, 3.13 that is installed)
#   VENV=.venv-3.12          another folder for the environment
#   SIGMA_EXTRAS=dev,cuda    extras of pyproject.toml (default: dev)
# A finished environment is reused until requirements.txt or pyproject.toml change.
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
  local venv="$1" extras="$2" stamp python
  stamp="$(cat requirements.txt pyproject.toml | cksum) $extras"
  if [ -f "$venv/.stamp" ] && [ "$(cat "$venv/.stamp")" = "$stamp" ]; then
    return
  fi
  python="$(pick_python)"
  echo "Setting up $venv with $("$python" --version) (about a minute, 1 GB)..."
  [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e ".[$extras]"
  echo "$stamp" >"$venv/.stamp"
}

make_environment "${VENV:-.venv}" "${SIGMA_EXTRAS:-dev}"
# shellcheck disable=SC1090,SC1091
. "${VENV:-.venv}/bin/activate"
