"""Metrics, calibration, robustness and their plots."""
