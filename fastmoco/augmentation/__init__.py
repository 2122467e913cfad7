"""The views of an image: the plain form, and three fast forms that equal it. Imports kernels,
system and draws.
"""
