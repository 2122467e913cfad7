"""The sources that prep reads: each is N images in one fixed order, with their labels.

A folder and a tar of it are the same source: same keys, same order, same bytes. Imports open,
formats and what lies below them; registry.py is the table of all sources.
"""
