"""Where images come from: a source is N images in one fixed order, with their labels.

A folder and a tar of it are the same source: same keys, same order, same bytes. May import what
lies at the top of data_tools, and `formats`.
"""
