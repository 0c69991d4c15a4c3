"""Bring the raw cohort into data/01_raw/kaggle_3m, from a folder, the downloaded zip, or Kaggle.

    scripts/sync_data.sh ~/Downloads/archive.zip
    scripts/sync_data.sh /somewhere/kaggle_3m
    scripts/sync_data.sh --kaggle

Only files that are missing or of another size are written, each in one piece, so that it can be
interrupted and repeated. The zip holds the cohort twice; it is taken once.
"""

import argparse
import os
import shutil
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

KAGGLE_DATASET = "mateuszbuda/lgg-mri-segmentation"
COHORT = "kaggle_3m"
PROJECT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class SourceFile:
    """A file of the cohort: its place below kaggle_3m, its size in bytes, and how to open it."""

    place: PurePosixPath
    size: int
    open: Callable[[], BinaryIO]


def files_of_folder(folder: Path) -> Iterator[SourceFile]:
    """Yield the cohort's files in a folder: kaggle_3m itself, or one that holds it."""
    candidates = [folder / COHORT, folder / "lgg-mri-segmentation" / COHORT, folder]
    root = next(path for path in candidates if path.is_dir())
    for path in sorted([*root.glob("*/*.tif"), *root.glob("*.csv")]):
        yield SourceFile(
            PurePosixPath(path.relative_to(root).as_posix()),
            path.stat().st_size,
            lambda path=path: path.open("rb"),
        )


def files_of_zip(archive: zipfile.ZipFile) -> Iterator[SourceFile]:
    """Yield the cohort's files in the downloaded zip, of the first of its two copies."""
    seen = set()
    by_depth = sorted(archive.infolist(), key=lambda info: info.filename.count("/"))
    for info in by_depth:
        parts = PurePosixPath(info.filename).parts
        if COHORT not in parts or ".." in parts:
            continue
        place = PurePosixPath(*parts[parts.index(COHORT) + 1 :])
        wanted = (len(place.parts), place.suffix) in ((2, ".tif"), (1, ".csv"))
        if wanted and place not in seen:
            seen.add(place)
            yield SourceFile(place, info.file_size, lambda info=info: archive.open(info))


def copy_missing(files: Iterator[SourceFile], target: Path) -> tuple[int, int]:
    """Copy what is missing or of another size; return how many were copied and were there."""
    copied = present = 0
    for file in files:
        path = target / file.place
        if path.is_file() and path.stat().st_size == file.size:
            present += 1
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as out, file.open() as source:
                shutil.copyfileobj(source, out)
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)
        copied += 1
        if copied % 500 == 0:
            print(f"{copied} files copied ...", flush=True)
    return copied, present


def download_from_kaggle() -> Path:
    """Download with kagglehub and the user's own credentials; return the folder."""
    try:
        import kagglehub
    except ImportError:
        raise SystemExit("Error: --kaggle needs kagglehub; run 'make install'.") from None
    try:
        return Path(kagglehub.dataset_download(KAGGLE_DATASET))
    except Exception as error:
        raise SystemExit(
            f"Error: Kaggle did not give {KAGGLE_DATASET}: {type(error).__name__}: {error}\n"
            "Check the network and your credentials (https://www.kaggle.com/settings -> API), or "
            "download the zip in a browser and give its path."
        ) from error


def sync(source: Path, target: Path) -> None:
    """Copy the cohort and print what is there."""
    if source.is_dir():
        copied, present = copy_missing(files_of_folder(source), target)
    elif zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            copied, present = copy_missing(files_of_zip(archive), target)
    else:
        what = "is neither a folder nor a zip file" if source.exists() else "does not exist"
        raise SystemExit(
            f"Error: {source} {what}. Give the folder {COHORT}, one that holds it, or the zip that "
            "Kaggle gives."
        )
    if not copied + present:
        raise SystemExit(
            f"Error: {source} holds no {COHORT}/<patient>/<patient>_<n>.tif. Give the folder "
            f"{COHORT}, one that holds it, or the zip that Kaggle gives."
        )
    images = [path for path in target.glob("*/*.tif") if not path.stem.endswith("_mask")]
    patients = {path.parent for path in images}
    print(f"{copied} files copied, {present} were there already")
    print(f"{len(patients)} patients, {len(images)} slices in {target}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="sync_data.sh",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", nargs="?", type=Path, help="folder or zip")
    parser.add_argument("--kaggle", action="store_true", help="download with your credentials")
    parser.add_argument(
        "--to", type=Path, default=PROJECT / "data/01_raw", help="default: data/01_raw"
    )
    options = parser.parse_args()
    if (options.source is None) != options.kaggle:
        parser.error("give either a folder or zip, or --kaggle")
    try:
        sync(download_from_kaggle() if options.kaggle else options.source, options.to / COHORT)
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        sys.exit(f"Error: the cohort could not be copied: {error}. What is there stays; try again.")


if __name__ == "__main__":
    main()
