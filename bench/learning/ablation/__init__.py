"""python -m bench.learning.ablation: the papers' comparisons at CIFAR's scale."""
