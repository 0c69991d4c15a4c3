from kedro.pipeline import Node, Pipeline

from brain_mri_segmentation.pipelines import data_processing, evaluation, in_namespace
from brain_mri_segmentation.pipelines.scoring.nodes import select_patients


def create_pipeline(**kwargs: object) -> Pipeline:
    """Any cohort -> scores of a finished model on all its patients (`--params raw_path=FOLDER`)."""
    prepare = data_processing.create_pipeline().only_nodes(
        "index_cohort", "fingerprint_split", "write_split_folders"
    )
    select = Node(
        select_patients,
        inputs={
            "cohort": "cohort",
            "split_manifest": "split_manifest",
            "checkpoint": "checkpoint",
            "parameters": "params:evaluation",
        },
        outputs="patient_split",
        name="select_patients",
    )
    score = evaluation.create_pipeline()
    return in_namespace(
        "scoring", Pipeline([prepare, select, score]), {"raw_slices", "split_manifest"}
    )
