"""Measurements of how well encoders learn on CIFAR-10."""
