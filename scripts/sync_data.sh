#!/usr/bin/env bash
# Bring the raw cohort into data/01_raw/kaggle_3m:
#
#     scripts/sync_data.sh ~/Downloads/archive.zip    the zip that Kaggle gives
#     scripts/sync_data.sh /somewhere/kaggle_3m       or a folder, or the one above it
#     scripts/sync_data.sh --kaggle                   or a download, with your own credentials
#
# --to FOLDER after it: another target than data/01_raw. A patient of whom a file is missing or differs is copied again,
# each file whole or not at all, so it can be interrupted and repeated; other files beside the slices stay.
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$project/.venv/bin/python
[ -x "$python" ] || python=python3

fail() { echo "Error: $*" >&2; exit 1; }
expected="Give the folder kaggle_3m, one that holds it, or the zip that Kaggle gives."

[ $# = 1 ] || { [ $# = 3 ] && [ "$2" = --to ]; } || { sed -n '2,9s/^#\( \|$\)//p' "$0"; exit 2; }
source=$1
to=${3:-$project/data/01_raw}
mkdir -p "$to/kaggle_3m"
part=$(mktemp -d "$to/.part.XXXXXX")  # beside the target, so that a move within one disk is all that is left to do
trap 'rm -rf "$part"' EXIT

if [ "$source" = --kaggle ]; then
    source=$("$python" -c '
import sys
sys.excepthook = lambda kind, error, _: print(f"{kind.__name__}: {error}", file=sys.stderr)
import kagglehub
print(kagglehub.dataset_download("mateuszbuda/lgg-mri-segmentation"))') ||
        fail "Kaggle did not give mateuszbuda/lgg-mri-segmentation. Check the network and your credentials" \
             "(https://www.kaggle.com/settings -> API), or download the zip in a browser and give its path."
elif [ -f "$source" ]; then
    "$python" -m zipfile -e "$source" "$part/zip" 2>/dev/null || fail "$source cannot be read as a zip. $expected"
    source=$part/zip
fi
for folder in "$source/kaggle_3m" "$source/lgg-mri-segmentation/kaggle_3m" "$source"; do
    [ ! -d "$folder" ] || break
done
ls "$folder"/*/*.tif >/dev/null 2>&1 || fail "$1 holds no kaggle_3m/<patient>/<patient>_<n>.tif. $expected"

copied=0
for patient in "$folder"/*/; do
    name=$(basename "$patient")
    ls "$patient"*.tif >/dev/null 2>&1 || continue
    target=$to/kaggle_3m/$name
    mkdir -p "$target"
    lacking=$(LC_ALL=C diff -rq "$patient" "$target" 2>&1 | grep -vF "Only in $target") || true
    [ -n "$lacking" ] || continue
    cp -R "$patient" "$part/$name"
    find "$part/$name" -mindepth 1 -maxdepth 1 -exec mv -f -t "$target" {} +
    copied=$((copied + 1))
done
cp "$folder"/*.csv "$to/kaggle_3m/" 2>/dev/null || true
slices=$(find "$to/kaggle_3m" -name '*.tif' ! -name '*_mask.tif' | wc -l)
echo "$copied patients copied"
echo "$(find "$to/kaggle_3m" -mindepth 1 -type d | wc -l) patients, $((slices)) slices in $to/kaggle_3m"
