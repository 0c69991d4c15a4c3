from brain_mri_segmentation.pipelines.sweep.pipeline import create_pipeline

__all__ = ["create_pipeline"]
