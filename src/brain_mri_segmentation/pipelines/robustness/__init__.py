from brain_mri_segmentation.pipelines.robustness.pipeline import create_pipeline

__all__ = ["create_pipeline"]
