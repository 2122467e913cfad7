"""The sources that prep reads: each is N images in one fixed order, with their labels.

A folder and a tar of it are the same source: same keys, same order, same bytes. registry.py is the
table of all sources. Imports open, formats and the folders below them.
"""
