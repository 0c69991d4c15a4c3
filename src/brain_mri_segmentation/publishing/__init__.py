"""Making a trained model public: gate, export, model card, push to a hub."""

from brain_mri_segmentation.publishing.card import render_card
from brain_mri_segmentation.publishing.export import export
from brain_mri_segmentation.publishing.gate import (
    Approval,
    Comparison,
    Scores,
    approve,
    compare,
    find_report,
)
from brain_mri_segmentation.publishing.hub import push

__all__ = [
    "Approval",
    "Comparison",
    "Scores",
    "approve",
    "compare",
    "export",
    "find_report",
    "push",
    "render_card",
]
