"""Flags read and lines printed; the only folder that imports rich. Imports runs and recipe."""
