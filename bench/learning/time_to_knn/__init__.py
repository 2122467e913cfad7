"""python -m bench.learning.time_to_knn: the time to a kNN accuracy against a plain MoCo."""
