"""python -m bench.loading.peers: two views by every loader, side by side."""
