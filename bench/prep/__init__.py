"""Measurements of `fastmoco prep`: speed, plans, kills."""
