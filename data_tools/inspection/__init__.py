"""Looks at datasets that exist: verify, inspect and drawn sheets. Imports preparation and the
folders below it.
"""
