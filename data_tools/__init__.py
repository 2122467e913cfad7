"""Prepare image datasets into one file, and read them back. No torch here.

`prepare.prepare(source, out)` writes a dataset directory, `open.open_store(path)` reads one.
"""

from data_tools.parsing import guard

guard()
