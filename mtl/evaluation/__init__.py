"""Evaluation: metrics per task and the reports that a person reads."""
