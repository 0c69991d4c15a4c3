"""From several checkpoints to one."""

import logging

from brain_mri_segmentation.ensembling import combine, find_checkpoints
from brain_mri_segmentation.models import Checkpoint, EnsembleOptions

logger = logging.getLogger(__name__)


def combine_checkpoints(models: dict[str, dict[str, object]]) -> Checkpoint:
    """Put the checkpoints that ``models.ensemble`` names together."""
    options = EnsembleOptions.model_validate(models["ensemble"])
    members = find_checkpoints(options.checkpoints)
    logger.info("An ensemble of %d members: %s", len(members), ", ".join(members))
    return combine(members, options.flip)
