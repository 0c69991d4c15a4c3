"""What MLflow runs when it loads a registered model; it keeps this file as text."""

import mlflow
import numpy as np

from brain_mri_segmentation.inference.predictor import (
    best_device,
    load_model,
    segment_batch,
    segment_volume,
)

ARTIFACT = "exported_model"


class MaskModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Gives masks for a batch of slices."""

    def load_context(self, context: mlflow.pyfunc.PythonModelContext) -> None:
        """Load the exported folder."""
        self._predictor = load_model(context.artifacts[ARTIFACT], best_device())

    def predict(
        self,
        context: mlflow.pyfunc.PythonModelContext,
        model_input: np.ndarray,
        params: dict[str, object] | None = None,
    ) -> np.ndarray:
        """Segment slices.

        Args:
            context: Not used.
            model_input: (N, H, W, 3) uint8: pre-contrast, FLAIR, post-contrast.
            params: ``volume``: whether these are all slices of one volume in order, which are
                normalised together, or have nothing to do with each other (the default).

        Returns:
            (N, H, W) uint8, 0 or 255.
        """
        together = bool((params or {}).get("volume", False))
        slices = list(np.asarray(model_input))
        results = (segment_volume if together else segment_batch)(self._predictor, slices)
        return np.stack([result.mask for result in results])


mlflow.models.set_model(MaskModel())
