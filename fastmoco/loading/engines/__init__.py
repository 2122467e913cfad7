"""Engines turn encoded bytes and windows into uint8 views. They draw nothing."""
