"""Patients and slices: what the cohort holds and how it is split."""
