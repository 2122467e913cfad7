"""Looks at datasets that exist: verify, inspect and the contact sheet. Imports preparation and
what lies below it.
"""
