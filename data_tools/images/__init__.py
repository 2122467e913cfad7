"""One image: its header, its kind, its pixels, and how prep stores it. Imports policy, errors and
store.
"""
