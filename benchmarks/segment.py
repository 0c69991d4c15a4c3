"""What reading and writing of folders costs over the bare model.

    .venv/bin/python benchmarks/segment.py [--volumes 20] [--slices 16] [--rounds 3] [--model PATH]

Segments synthetic volumes twice in turns: with ``Predictor.predict`` as they are in memory, and
with ``segment_volumes`` from a folder of TIFFs to one of PNGs, as the command ``segment`` does.
Prints slices a second of both, and the median of their ratios.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from brain_mri_segmentation.cohort.phantom import make_volume
from brain_mri_segmentation.imaging.readers import find_volumes, read_volume
from brain_mri_segmentation.inference.folders import segment_volumes
from brain_mri_segmentation.inference.predictor import best_device, load_model
from brain_mri_segmentation.models import SHIPPED_MODEL
from brain_mri_segmentation.runtime.files import Folder


def write_phantoms(folder: Path, volumes: int, slices: int) -> None:
    """Write volumes of 256 x 256 pixels, each in a folder of its own."""
    for number in range(volumes):
        place = folder / f"v{number}"
        place.mkdir(parents=True)
        drawn = make_volume(slices, 256, np.random.default_rng(number))
        for n, (image, _) in enumerate(drawn):
            Image.fromarray(image).save(place / f"v{number}_{n}.tif")


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--volumes", type=int, default=20)
    parser.add_argument("--slices", type=int, default=16, help="of each volume")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default=str(SHIPPED_MODEL), help="checkpoint or exported model")
    options = parser.parse_args()
    predictor = load_model(options.model, best_device())
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in"), Folder.at(f"{folder}/out")
        write_phantoms(source, options.volumes, options.slices)
        volumes = [read_volume(place) for place in sorted(source.iterdir())]
        found = find_volumes(Folder.at(str(source)))
        predictor.predict(volumes[0])
        bare, whole = np.empty((2, options.rounds))
        for turn in range(options.rounds):
            started = time.perf_counter()
            for volume in volumes:
                predictor.predict(volume)
            bare[turn] = time.perf_counter() - started
            started = time.perf_counter()
            for _ in segment_volumes(found, predictor, target, overwrite=True):
                pass
            whole[turn] = time.perf_counter() - started
    slices = options.volumes * options.slices
    print(f"{options.volumes} volumes of {options.slices} slices, {predictor.engine.name}")
    print(f"Predictor.predict, in memory: {slices / np.median(bare):.1f} slices a second")
    print(f"segment_volumes, folders:     {slices / np.median(whole):.1f} slices a second")
    print(f"ratio: {np.median(bare / whole):.2f}")


if __name__ == "__main__":
    main()
