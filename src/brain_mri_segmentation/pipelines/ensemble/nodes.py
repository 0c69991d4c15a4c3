"""From several checkpoints to one."""

import logging

from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.models.ensemble import EnsembleOptions, combine, find_checkpoints

logger = logging.getLogger(__name__)


def combine_checkpoints(models: dict[str, dict[str, object]]) -> Checkpoint:
    """Put the checkpoints that ``models.ensemble`` names together."""
    options = EnsembleOptions.model_validate(models["ensemble"])
    members = find_checkpoints(options.checkpoints)
    logger.info("An ensemble of %d members: %s", len(members), ", ".join(members))
    return combine(members, options.mirroring)
