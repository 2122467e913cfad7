"""python -m bench.training.step: the training step against others'."""
