"""One file per format of prepared datasets, its writer and its reader side by side.

Imports images, store and the floors below them. registry.py is the table of all formats.
"""
