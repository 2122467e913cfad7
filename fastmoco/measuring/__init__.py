"""Measures the speed and the memory of a run, and says what to change. Imports training and the
folders below it.
"""
