"""Predicts the cost of a preparation (`prep --plan`) and measures this machine's rates.
Imports prepare, preparation and the folders below them.
"""
