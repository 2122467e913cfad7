"""The papers' model: encoder, momentum, dictionary and loss. Imports system and recipe."""
