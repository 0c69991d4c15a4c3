from brain_mri_segmentation.pipelines.scoring.pipeline import create_pipeline

__all__ = ["create_pipeline"]
