from brain_mri_segmentation.pipelines.ensemble.pipeline import create_pipeline

__all__ = ["create_pipeline"]
