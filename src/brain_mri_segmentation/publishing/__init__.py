"""Making a trained model public: gate, export, model card, push to a hub."""

from brain_mri_segmentation.publishing.export import export

__all__ = ["export"]
