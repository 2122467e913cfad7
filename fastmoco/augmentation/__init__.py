"""Augmentation of views: the plain form, and three other forms that give the same images.
Imports kernels, system and draws.
"""
