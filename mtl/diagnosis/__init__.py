"""Diagnose a task's data from embeddings: what is missing, and which rows look wrong."""
