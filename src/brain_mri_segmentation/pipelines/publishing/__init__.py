from brain_mri_segmentation.pipelines.publishing.pipeline import create_pipeline

__all__ = ["create_pipeline"]
