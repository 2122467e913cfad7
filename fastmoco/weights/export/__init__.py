"""Trunks and models for other systems, each with a model card. Imports the rest of weights."""
