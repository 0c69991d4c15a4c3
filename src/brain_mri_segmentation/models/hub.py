"""Networks that the Hugging Face hub's own library loads."""

from huggingface_hub import PyTorchModelHubMixin

from brain_mri_segmentation.models.layout import Layout


class HubModel(Layout, PyTorchModelHubMixin):
    """Base of architectures of this project's own: ``Name.from_pretrained(folder or hub name)``."""
