"""Measurements of the training step, its loss, time budgets, and resuming after kills."""
