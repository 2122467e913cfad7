"""Measurements of the training step, its loss, its budget and its resume."""
