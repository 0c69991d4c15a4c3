#!/usr/bin/env python3
"""Write the mean of the weights of several checkpoints, each trained on from the one before.

python scripts/average_weights.py stage1.ckpt stage2.ckpt --to data/06_models/unet/uncalibrated.ckpt
kedro run --pipeline training --from-nodes calibrate_model
"""

import argparse
from pathlib import Path

from brain_mri_segmentation.ensembling import average_weights, find_checkpoints
from brain_mri_segmentation.errors import InputError


def main() -> None:
    """Read, average, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="+", help="in the order of training")
    parser.add_argument("--to", type=Path, required=True, help="checkpoint to write")
    options = parser.parse_args()
    try:
        average_weights(find_checkpoints(options.checkpoints)).save(options.to)
    except InputError as error:
        parser.exit(1, f"Error: {error}\n")


if __name__ == "__main__":
    main()
