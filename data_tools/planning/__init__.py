"""Predicts the cost of a preparation: `prep --plan`. Imports preparation, inspection and what lies
below them.
"""
