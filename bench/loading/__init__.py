"""Measurements of the path from a dataset to augmented views."""
