"""Evaluates encoders: features, kNN, linear classifiers, fine-tuning. Imports augmentation,
loading, weights, model and system.
"""
