"""Comparing runs: scenarios with their seeds, what lies between them beyond noise, and what follows for a user."""
