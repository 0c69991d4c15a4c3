"""What a copy in 8 bits loses on patients that its model never saw, fold by fold.

    .venv/bin/python benchmarks/int8_folds.py [--model unet_efficientnet] [--env base]

Run it in the project where the cross-validation ran. Each fold's model is quantised by three slices
of each of its training patients, and segments the patients that were held out, once in 32 bits
(PyTorch) and once in 8 (OpenVINO).
"""

import argparse
from pathlib import Path

import pandas as pd
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from brain_mri_segmentation.pipelines import DEVELOPMENT_FOLDERS
from brain_mri_segmentation.pipelines.cross_validation.nodes import select_folds
from brain_mri_segmentation.publishing.quantisation import prove, quantise


def main() -> None:
    """Print Dice of both, and what is lost in the mean and by the worst patient."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="unet_efficientnet")
    parser.add_argument("--env", default="base")
    options = parser.parse_args()
    project = Path(__file__).resolve().parents[1]
    bootstrap_project(project)
    rows = []
    with KedroSession.create(
        project, env=options.env, runtime_params={"model": options.model}
    ) as session:
        catalog = session.load_context().catalog
        assignment = catalog.load("fold_assignment")
        partitions = {name: catalog.load(name) for name in DEVELOPMENT_FOLDERS}
        folds = int(assignment["fold"].max())
        slices = select_folds(assignment, folds, **partitions)
        for fold in (f"fold_{n}" for n in range(1, folds + 1)):
            model = quantise(catalog.load(f"{fold}.checkpoint"), slices[f"{fold}.train_images"])
            held_out = (slices[f"{fold}.evaluation_{kind}"] for kind in ("images", "masks"))
            rows.append(prove(model, *held_out, fold))
            print(rows[-1]["reason"])
    table = pd.DataFrame(rows).set_index("split")[["patients", "dice", "dice_int8", "most_lost"]]
    means = table.mul(table["patients"], axis=0).sum() / table["patients"].sum()
    table.loc["all"] = [table["patients"].sum(), means.dice, means.dice_int8, table.most_lost.max()]
    table["lost"] = table["dice"] - table["dice_int8"]
    print(table.astype({"patients": int}).round(4).to_markdown())


if __name__ == "__main__":
    main()
