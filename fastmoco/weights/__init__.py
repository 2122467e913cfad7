"""Checkpoints: ours written and read, others read. Imports model, runs and system."""
