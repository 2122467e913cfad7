"""Measurements and the demo; see README.md in this folder."""
