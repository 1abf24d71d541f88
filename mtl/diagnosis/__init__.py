"""Diagnosis: what a task's data lacks and which of its rows look wrong, from embeddings alone."""
