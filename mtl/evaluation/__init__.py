"""Metrics, predictions, calibration and error analysis of each task, and the records of a run with their files."""
