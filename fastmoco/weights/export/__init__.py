"""Exports trunks and models to other systems, each with a model card. Imports the rest of
weights."""
