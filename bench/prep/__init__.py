"""Measurements of `fastmoco prep`: speed, plans, kills, and reading its files ahead of use."""
