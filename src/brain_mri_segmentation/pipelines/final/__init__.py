from brain_mri_segmentation.pipelines.final.pipeline import create_pipeline

__all__ = ["create_pipeline"]
