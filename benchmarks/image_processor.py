"""What it costs to leave normalisation to transformers' image processor, which knows no volumes.

    python benchmarks/image_processor.py --model data/06_models/pretrained/unet --split val

Scores an exported model on a partition of data/05_model_input twice: with this project's
preprocessing, and with the pixels as AutoImageProcessor gives them.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm
from transformers import AutoImageProcessor

from brain_mri_segmentation.datasets import SliceFolderDataset
from brain_mri_segmentation.evaluation import metrics
from brain_mri_segmentation.imaging.naming import by_patient
from brain_mri_segmentation.inference.postprocessing import remove_small_components
from brain_mri_segmentation.inference.predictor import load_model, segment_volume


def main() -> None:
    """Print mean Dice over patients of both ways."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="data/06_models/pretrained/unet", help="exported folder")
    parser.add_argument("--data", default="data/05_model_input")
    parser.add_argument("--split", default="val")
    arguments = parser.parse_args()
    folders = [Path(arguments.data, arguments.split, kind) for kind in ("images", "masks")]
    images, masks = (SliceFolderDataset(path=str(folder)).load() for folder in folders)
    predictor = load_model(arguments.model)
    processor = AutoImageProcessor.from_pretrained(arguments.model)
    rules = predictor.preprocessing
    rows = {"of this project": [], "of the image processor": []}
    for patient, names in tqdm(by_patient(list(images)).items(), "Patients"):
        slices = [images[name]() for name in names]
        truth = np.stack([masks[name]() for name in names])
        ours = np.stack([result.mask for result in segment_volume(predictor, slices)])
        with torch.inference_mode():
            batches = processor(slices, return_tensors="pt")["pixel_values"].split(16)
            logits = torch.cat([predictor.network(batch) for batch in batches])
            if rules.mirroring:
                mirrored = [predictor.network(batch.flip(-1)).flip(-1) for batch in batches]
                logits = (logits + torch.cat(mirrored)) / 2
        probability = (logits / rules.temperature).softmax(dim=1)[:, 1].numpy()
        kept = remove_small_components(probability, rules.threshold, rules.min_component_ratio)
        for name, mask in zip(rows, (ours, kept >= rules.threshold), strict=True):
            counts = metrics.confusion_counts(mask, truth)
            rows[name] += [(patient, *slice_counts) for slice_counts in counts]
    for name, counted in rows.items():
        table = pd.DataFrame(counted, columns=["patient", *metrics.COUNTS])
        dice = metrics.score_patients(table)["dice"].mean()
        print(f"preprocessing {name:<24} mean Dice {dice:.3f}")


if __name__ == "__main__":
    main()
