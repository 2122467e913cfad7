"""The same list of images in CSV, TSV and JSON lines."""

import json

from tests.support.made_files.sample_images import jpeg

IMAGES = {f"photos/{name}.jpg": jpeg(seed=i) for i, name in enumerate(["b", "a", "ü x", "c,d"])}
LABELS = ["dog", "cat", "dog", "a, b"]


def quoted(cell: str) -> str:
    return f'"{cell}"' if "," in cell else cell
ROWS = list(zip(IMAGES, LABELS, strict=True))
CSV = "".join(f"{quoted(path)},{quoted(label)}\n" for path, label in ROWS)
TSV = "".join(f"{path}\t{label}\n" for path, label in ROWS)
JSON = "".join(json.dumps({"file_name": path, "label": label}) + "\n" for path, label in ROWS)
