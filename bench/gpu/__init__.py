"""python -m bench.gpu: all that only a GPU can show."""
