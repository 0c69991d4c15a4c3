from brain_mri_segmentation.pipelines.training.pipeline import create_pipeline

__all__ = ["create_pipeline"]
