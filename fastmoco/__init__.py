"""MoCo v1 and v2 pre-training on your own images (arXiv 1911.05722, 2003.04297).

The public names below are loaded at their first use, so that `import fastmoco` is fast: a function
for each command (`fastmoco prep` is fastmoco.prepare), load, open_store, and the recipes.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fastmoco.recipe import MOCO_CIFAR, MOCO_V1, MOCO_V2, Recipe
    from fastmoco.run_options import RunOptions
    from fastmoco.verbs.checks import doctor, selftest
    from fastmoco.verbs.data import inspect, open_store, prepare, verify
    from fastmoco.verbs.evaluations import embed, finetune, knn, linear, load
    from fastmoco.verbs.results import compare, export, report
    from fastmoco.verbs.training import bench, train, views

__all__ = [
    "MOCO_CIFAR", "MOCO_V1", "MOCO_V2", "Recipe", "RunOptions", "bench", "compare", "doctor",
    "embed", "export", "finetune", "inspect", "knn", "linear", "load", "open_store", "prepare",
    "report", "selftest", "train", "verify", "views",
]
_MODULES = {
    "fastmoco.recipe": ("MOCO_CIFAR", "MOCO_V1", "MOCO_V2", "Recipe"),
    "fastmoco.run_options": ("RunOptions",),
    "fastmoco.verbs.checks": ("doctor", "selftest"),
    "fastmoco.verbs.data": ("inspect", "open_store", "prepare", "verify"),
    "fastmoco.verbs.evaluations": ("embed", "finetune", "knn", "linear", "load"),
    "fastmoco.verbs.results": ("compare", "export", "report"),
    "fastmoco.verbs.training": ("bench", "train", "views"),
}


if not TYPE_CHECKING:  # type checkers then report a name that does not exist

    def __getattr__(name: str) -> Any:
        """Load a public name at its first use (PEP 562)."""
        from importlib import import_module

        module = next((module for module, names in _MODULES.items() if name in names), None)
        if module is None:
            raise AttributeError(f"module 'fastmoco' has no attribute {name!r}")
        found = getattr(import_module(module), name)
        if module.startswith("fastmoco.verbs."):
            from fastmoco.verbs.front_door import front_door

            found = front_door(found)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    """Return the public names, loaded or not."""
    return sorted({*globals(), *__all__})
