"""Engines: encoded bytes and windows to uint8 views. They draw nothing."""
