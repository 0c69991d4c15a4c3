from brain_mri_segmentation.pipelines.evaluation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
