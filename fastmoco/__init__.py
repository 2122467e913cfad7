"""MoCo v1 and v2 pre-training (arXiv 1911.05722, 2003.04297). Import what you need by module."""

__version__ = "0.1.0"
