"""The sources that prep reads: archives, tables and lists of images, each prepared as a whole."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import shutil
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.fuzz import containers
from bench.fuzz.image_readers import encode, picture, smooth
from bench.fuzz.mutations import edit_json_line, edit_lines, edit_table
from bench.fuzz.reader import Edit, Reader
from data_tools.open import open_store
from data_tools.policy import Policy
from data_tools.prepare import prepare

POLICY = Policy(workers=1, max_pixels=1 << 22)
CLASSES = ("ant", "bee")
IDX_FIELDS = containers.fields((0, 4, "big"), (2, 1, "big"), (3, 1, "big"), (4, 4, "big"),
                               (8, 4, "big"), (12, 4, "big"))


def prepare_whole(path: Path, out: Path, labels: Path | None = None) -> Any:
    """Prepare whatever is in the folder, and read the result back."""
    try:
        prepare(path, out, POLICY, ("tfrecord",), labels=labels)
        store = open_store(out)
        return [(store.key(i), bytes(store.encoded(i)[:16])) for i in range(min(20, len(store)))]
    finally:
        shutil.rmtree(out, ignore_errors=True)


def read_file(folder: Path, name: str) -> Any:
    return prepare_whole(folder / name, folder.with_suffix(".out"))


def read_parent(folder: Path, name: str) -> Any:
    return prepare_whole((folder / name).parent, folder.with_suffix(".out"))


def small_images(count: int = 6) -> list[bytes]:
    return [encode(picture("RGB", 12 + i, 15), "PNG" if i == 3 else "JPEG") for i in range(count)]


def packed(members: dict[str, bytes], form: int = tarfile.USTAR_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def in_folders() -> dict[str, bytes]:
    return {f"{CLASSES[i % 2]}/{i}.jpg": data for i, data in enumerate(small_images())}


def samples() -> dict[str, bytes]:
    """Return the members of a WebDataset tar."""
    found: dict[str, bytes] = {}
    for i, data in enumerate(small_images()):
        found[f"{i:06}.{'png' if i == 3 else 'jpg'}"] = data
        found[f"{i:06}.cls"] = b"%d" % (i % 2)
        found[f"{i:06}.json"] = json.dumps({"label": i % 2, "note": ["x"]}).encode()
    return found


def written(folder: Path, files: dict[str, bytes]) -> list[str]:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return list(files)


def build_tar(folder: Path) -> list[str]:
    long = {"x" * 120 + "/" + k: v for k, v in in_folders().items()}
    return written(folder, {
        "plain.tar": packed(in_folders()), "gnu.tar": packed(long, tarfile.GNU_FORMAT),
        "pax.tar": packed({"ü" * 60 + k: v for k, v in in_folders().items()}, tarfile.PAX_FORMAT),
    })


def build_tar_gz(folder: Path) -> list[str]:
    return written(folder, {"images.tar.gz": gzip.compress(packed(in_folders()), 1, mtime=0)})


def build_tar_of_tars(folder: Path) -> list[str]:
    inner = {f"n{i}.tar": packed({f"{k}.JPEG": d for k, d in enumerate(small_images(2))})
             for i in range(3)}
    return written(folder, {"train.tar": packed(inner)})


def build_webdataset(folder: Path) -> list[str]:
    return written(folder, {"shard.tar": packed(samples())})


def batch(key: str, protocol: int) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3072), np.uint8)
    return pickle.dumps({"data": pixels, key: [0, 1, 2, 3], "batch_label": "1"}, protocol)


def cifar(protocol: int = 2) -> dict[str, bytes]:
    names = pickle.dumps({"label_names": [f"c{i}" for i in range(10)]}, protocol)
    return {"cifar-10-batches-py/data_batch_1": batch("labels", protocol),
            "cifar-10-batches-py/batches.meta": names}


def build_cifar_folder(folder: Path) -> list[str]:
    return written(folder, cifar()) + [
        f"five/{name}" for name in written(folder / "five", cifar(5))
    ]


def build_cifar(folder: Path) -> list[str]:
    names = pickle.dumps({"fine_label_names": [f"c{i}" for i in range(100)]}, 2)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3073), np.uint8)
    pixels[:, 0] %= 10
    binary = {"cifar-10-batches-bin/data_batch_1.bin": pixels.tobytes(),
              "cifar-10-batches-bin/batches.meta.txt": b"\n".join(b"c%d" % i for i in range(10))}
    hundred = {"cifar-100-python/train": batch("fine_labels", 2), "cifar-100-python/meta": names}
    return written(folder, {"binary.tar": packed(binary), "hundred.tar": packed(hundred),
                            "packed.tar.gz": gzip.compress(packed(cifar()), 1, mtime=0)})


def build_idx(folder: Path) -> list[str]:
    pixels = smooth(9 * 5, 7, 1).tobytes()
    images = struct.pack(">BBBBIII", 0, 0, 8, 3, 5, 9, 7) + pixels
    labels = struct.pack(">BBBBI", 0, 0, 8, 1, 5) + bytes(range(5))
    names = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
    files = dict(zip((f"plain/{n}" for n in names), (images, labels), strict=True))
    return written(folder, files | {
        f"packed/{n}.gz": gzip.compress(d, 1, mtime=0)
        for n, d in zip(names, (images, labels), strict=True)
    })


def build_parquet(folder: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = arrow_rows()
    pq.write_table(rows, folder / "rows.parquet", row_group_size=3)
    pq.write_table(rows, folder / "packed.parquet", compression="zstd", use_dictionary=False)
    plain = pa.table({"image": rows["image"].combine_chunks().field("bytes"),
                      "label": pa.array(["a", "b", None] * 2)})
    pq.write_table(plain, folder / "plain.parquet")
    return ["rows.parquet", "packed.parquet", "plain.parquet"]


def arrow_rows() -> Any:
    import pyarrow as pa

    cells = [{"bytes": d, "path": f"{i}.jpg"} for i, d in enumerate(small_images())]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.table({"image": pa.array(cells, kind), "label": pa.array([0, 1] * 3)})
    features = {"image": {"_type": "Image"}, "label": {"names": list(CLASSES),
                                                       "_type": "ClassLabel"}}
    return rows.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})})


def build_arrow(folder: Path) -> list[str]:
    import pyarrow as pa

    rows = arrow_rows()
    for name, make, packing in (("file.arrow", pa.ipc.new_file, None),
                                ("stream.arrow", pa.ipc.new_stream, None),
                                ("packed.arrow", pa.ipc.new_stream, "zstd")):
        options = pa.ipc.IpcWriteOptions(compression=packing)
        with pa.OSFile(str(folder / name), "wb") as file:
            with make(file, rows.schema, options=options) as out:
                out.write_table(rows, max_chunksize=3)
    return ["file.arrow", "stream.arrow", "packed.arrow"]


def images_beside(folder: Path) -> list[str]:
    return written(folder, {f"img/{i}.jpg": d for i, d in enumerate(small_images())})


def build_list(suffix: str, text: Callable[[list[str]], str]) -> Callable[[Path], list[str]]:
    def build(folder: Path) -> list[str]:
        names = images_beside(folder)
        return written(folder, {f"list{suffix}": text(names).encode()})

    return build


def comma_list(names: list[str]) -> str:
    return "path,label,width\n" + "".join(f'"{n}",{CLASSES[i % 2]},{i}\n'
                                          for i, n in enumerate(names))


def tab_list(names: list[str]) -> str:
    return "file_name\tlabel\n" + "".join(f"{n}\t{i % 2}\n" for i, n in enumerate(names))


def json_list(names: list[str]) -> str:
    rows = ({"file_name": n, "label": i % 2, "objects": {"bbox": [[1, 2]]}}
            for i, n in enumerate(names))
    return "".join(json.dumps(row) + "\n" for row in rows)


def build_truth(folder: Path) -> list[str]:
    """Write a flat folder of images and a list with their labels."""
    flat = {f"flat/{i}.jpg": d for i, d in enumerate(small_images())}
    written(folder, flat)
    text = "".join(f"{Path(n).name} {CLASSES[i % 2]}\n" for i, n in enumerate(flat))
    return written(folder, {"names.txt": text.encode(), "numbers.txt": b"1\n0\n1\n1\n0\n0\n"})


def read_truth(folder: Path, name: str) -> Any:
    return prepare_whole(folder / "flat", folder.with_suffix(".out"), folder / name)


def source(
    name: str, build: Callable[[Path], list[str]], *edits: Edit,
    read: Callable[[Path, str], Any] = read_file,
) -> Reader:
    return Reader(name, build, read, edits)


READERS = [
    source("tar", build_tar, containers.edit_tar),
    source("tar.gz", build_tar_gz, containers.inside_gzip(containers.edit_tar),
           containers.inside_gzip(containers.change_any)),
    source("tar-of-tars", build_tar_of_tars, containers.edit_tar),
    source("webdataset", build_webdataset, containers.edit_tar),
    source("cifar-folder", build_cifar_folder, containers.edit_pickle, read=read_parent),
    source("cifar", build_cifar, containers.edit_tar, containers.inside_gzip(containers.edit_tar)),
    source("idx", build_idx, IDX_FIELDS, containers.inside_gzip(IDX_FIELDS),
           read=read_parent),
    source("parquet", build_parquet, containers.fields((-8, 4, "little"), (-4, 4, "little"))),
    source("arrow", build_arrow, containers.fields(
        (-10, 4, "little"), (4, 4, "little"), (8, 4, "little"), (12, 4, "little"))),
    source("csv", build_list(".csv", comma_list), edit_lines, edit_table),
    source("tsv", build_list(".tsv", tab_list), edit_lines, edit_table),
    source("jsonl", build_list(".jsonl", json_list), edit_lines, edit_json_line, edit_json_line),
    source("label-list", build_truth, edit_lines, edit_table, read=read_truth),
]
