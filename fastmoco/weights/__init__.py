"""Checkpoints: writes and reads ours, and reads other systems'. Imports model, runs and system."""
