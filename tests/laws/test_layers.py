"""The floors of the design: a file imports only from lines above its own."""

import ast
import functools
import graphlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Lowest first; files of one line may not import each other.
FLOORS = [
    [
        "recipe", "vectors", "blur_numba", "trunk_names", "appended", "zip_records",
        "weights_pickle", "weights_safetensors", "evaluation_file", "bench_file", "run_lock",
        "foreign_tensors", "engines",
    ],
    ["record_digests"],
    ["weights_file", "weights_write"],
    ["layouts", "other_trunks", "run_options", "write_numba", "normalise"],
    ["draws"],
    ["read_ahead"],
    ["batch"],
    ["device"],
    ["events", "schedule"],
    ["health", "curves"],
    ["augment"],
    ["augment_fast", "augment_kornia", "augment_numba"],
    ["batchnorm"],
    ["timm_trunk"],
    ["encoder"],
    ["info_nce", "distributed", "budget"],
    ["dictionaries"],
    ["moco"],
    ["step", "compiling", "recompute"],
    ["engines.resample"],
    ["engines.threads"],
    ["engines.faults", "engines.resident"],
    ["engines.dali", "engines.ffcv", "engines.decoded"],
    ["engines.registry"],
    ["loader"],
    ["checkpoint"],
    ["weights_in", "weights_out", "detection"],
    ["interop", "export_use"],
    ["model_card"],
    ["export"],
    ["labels", "scores", "heads", "epoch_state"],
    ["features", "crops"],
    ["feature_cache"],
    ["knn", "linear", "finetune", "embed"],
    ["linear_quick", "neighbours"],
    ["run_dir", "monitor", "progress", "stopping", "telling", "memory"],
    ["sizing", "resume"],
    ["start"],
    ["saving"],
    ["train"],
    ["selftest"],
    ["stages", "roofline", "published"],
    ["throughput", "views", "cache", "torchvision_source", "load_rate"],
    ["console", "flags"],
    ["report_flags", "run_record", "doctor", "chart", "report_style", "report_tables"],
    ["compare", "report_pictures"],
    ["report_page"],
    ["report"],
    ["report_cli"],
    ["evaluation_flags"],
    ["weights_flags"],
    ["data_cli", "panel"],
    ["evaluation_cli", "bench_cli"],
    ["weights_cli"],
    ["cli"],
    ["__main__"],
]
HEAVY = {"torch", "torchvision", "kornia", "numba", "rich"}


@functools.cache
def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
    return found


def test_every_file_has_a_floor_and_imports_downwards():
    package = ROOT / "fastmoco"
    floor = {f"fastmoco.{name}": i for i, names in enumerate(FLOORS) for name in names}
    files = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if path != package / "__init__.py":
            files[".".join(parts).removesuffix(".__init__")] = path
    assert set(files) == set(floor)
    for name, path in files.items():
        for other in imports(path) & set(floor):
            assert floor[other] < floor[name], f"{name} imports {other}, which is not below it"


def test_no_circle_of_files():
    """Imports under TYPE_CHECKING, and those inside functions, count as well."""
    for package in ("data_tools", "fastmoco", "bench"):
        names = {
            ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
            for path in (ROOT / package).rglob("*.py")
        }
        graph = {name: imports(path) & set(names) - {name} for name, path in names.items()}
        # A module of a package also names the package, whose own file imports nothing.
        sorter = graphlib.TopologicalSorter(
            {name: {o for o in others if not name.startswith(f"{o}.")}
             for name, others in graph.items()}
        )
        sorter.prepare()


def test_data_tools_stands_alone():
    for path in (ROOT / "data_tools").rglob("*.py"):
        roots = {name.split(".")[0] for name in imports(path)}
        assert not roots & (HEAVY | {"fastmoco", "ffcv", "cv2"}), path


def test_two_files_import_rich_and_one_names_cuda():
    for path in (ROOT / "fastmoco").rglob("*.py"):
        if path.name not in ("console.py", "panel.py"):
            assert not any(n.split(".")[0] == "rich" for n in imports(path)), path
        if path.name != "device.py":
            assert "torch.cuda" not in path.read_text(), path


def test_recipes_and_help_import_nothing_heavy():
    code = (
        "import sys, fastmoco.terminal.parse, fastmoco.cli, fastmoco.runs.lock; "
        "print(sorted({m.split('.')[0] for m in sys.modules}))"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not (HEAVY | {"numpy", "PIL"}) & set(ast.literal_eval(seen.stdout))
