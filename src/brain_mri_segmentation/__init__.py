"""Lower-grade glioma in brain MRI slices. Research use only, not a medical device."""

__version__ = "0.2.0"

DISCLAIMER = "Research use only, not a medical device."
