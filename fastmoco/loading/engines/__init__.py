"""Engines decode images and cut windows from them: uint8 views. They draw nothing."""
