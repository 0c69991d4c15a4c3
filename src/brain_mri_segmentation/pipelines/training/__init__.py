from brain_mri_segmentation.pipelines.training.pipeline import create_pipeline, without_validation

__all__ = ["create_pipeline", "without_validation"]
