#!/usr/bin/env bash
# The lower bounds in pyproject.toml: installs the lowest version of each package that it names, and
# runs the tests. An empty folder for the environment may be given: benchmarks/lowest.sh [FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-$(mktemp -d)}
python3 -m venv "$folder"
. "$folder/bin/activate"
pip install -q uv
uv pip install -q --resolution lowest-direct -e ".[test]"
uv pip list | grep -iE "^(torch|pytorch-lightning|hydra|numpy|onnx|gradio|pydantic)"
pytest -q -m "slow or not slow" "${@:2}"
