from brain_mri_segmentation.pipelines.data_processing.pipeline import create_pipeline

__all__ = ["create_pipeline"]
