#!/usr/bin/env bash
# Bring the raw cohort in: scripts/sync_data.sh SRC | --kaggle   [--to FOLDER]
# All that it does is in sync_data.py, which needs nothing but Python.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$here/../.venv/bin/python
[ -x "$python" ] || python=python3
exec "$python" "$here/sync_data.py" "$@"
