"""Inputs of every kind, most of them broken: each works or gives our own error."""
