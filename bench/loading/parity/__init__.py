"""python -m bench.loading.parity: how far each operation is from its reference."""
