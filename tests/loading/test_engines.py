"""One contract for every engine on every kind of store, and the flag that chooses among them."""

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_tools.errors import UserError
from data_tools.open import open_store
from data_tools.policy import Policy
from data_tools.prepare import prepare
from data_tools.store import RAW
from data_tools.subset import Subset
from fastmoco import draws
from fastmoco.loading.engines.bad_sample import bad_sample
from fastmoco.loading.engines.registry import Opened, open_engine
from fastmoco.loading.engines.resident_gpu import ResidentEngine
from fastmoco.loading.engines.threads import decode
from fastmoco.loading.eval_loader import EvalLoader
from fastmoco.loading.train_loader import TrainLoader
from fastmoco.recipe import MOCO_V2
from tests.support.command_line import TINY, refused, run
from tests.support.loaded_batches import assert_same, copy
from tests.support.sample_images import smooth_image

RECIPE = dataclasses.replace(MOCO_V2, size=32, batch=16, bn_splits=4, K=40, seed=5)
CPU = torch.device("cpu")
SAMPLES = 40
FORMATS = ("beton", "tfrecord", "recordio", "webdataset")
# Mean difference from Pillow's crop of the exact decode that an engine may have, of 255: in
# training's integer windows and in evaluation's float boxes.
TOLERANCE = {
    "threads": (0.5, 0.5), "resident": (0.5, 0.5), "resident, as on a GPU": (0.5, 0.5),
    "dali": (0.5, 0.5), "ffcv": (2.0, 4.0),
}
MODULES = {"dali": "nvidia.dali", "ffcv": "ffcv"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> dict[str, Path]:
    """The same 40 photograph-like JPEGs in every format; in "raw", half of them as plain RGB."""
    root = tmp_path_factory.mktemp("engines")
    rng = np.random.default_rng(3)
    for i in range(SAMPLES):
        label = ("ash", "oak")[i % 2]
        (root / "in" / label).mkdir(parents=True, exist_ok=True)
        height, width = (int(x) for x in rng.integers(60, 150, 2))
        image = Image.fromarray(smooth_image(rng, height, width))
        image.save(root / "in" / label / f"{i:03}.jpg", quality=90)
    prepare(root / "in", root / "all", formats=FORMATS)
    prepare(root / "in", root / "raw", Policy(raw_fraction=0.5))
    return {name: root / "all" / name for name in FORMATS} | {"raw": root / "raw"}


def cases():
    for engine in TOLERANCE:
        for name in (*FORMATS, "raw"):
            if engine != "ffcv" or name in ("beton", "raw"):
                yield engine, name


each_case = pytest.mark.parametrize(("engine", "name"), list(cases()))
each_engine = pytest.mark.parametrize("engine", list(TOLERANCE))


def start(engine: str, store, threads: int = 2) -> Opened:
    """The engine on the store; skips where its package is not installed."""
    if engine == "resident, as on a GPU":
        return Opened(ResidentEngine(store, threads, CPU), engine, "")
    if engine in MODULES:
        pytest.importorskip(MODULES[engine], reason=f"{engine} is not installed",
                            exc_type=ImportError)
    return open_engine(engine, store, threads)


def epoch(engine, store, recipe=RECIPE, threads=2, first_step=0):
    opened = start(engine, store, threads).engine
    try:
        loader = TrainLoader(store, recipe, opened, CPU)
        return [copy(b) for b in loader.epoch(1, first_step)]
    finally:
        opened.close()


def cut(store, i, window, size):
    """Pillow's view of a sample: float64 [size, size, 3]."""
    top, left, height, width = window
    image, box = Image.fromarray(decode(store, i)), (left, top, left + width, top + height)
    if isinstance(top, int):
        image, box = image.crop(box), None
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box), float)


@each_case
def test_an_epoch_is_every_sample_once_in_the_windows_that_were_drawn(prepared, engine, name):
    store = open_store(prepared[name])
    assert (store.kinds == RAW).any() == (name == "raw")
    batches = epoch(engine, store)
    ids = np.concatenate([b["index"].numpy() for b in batches])
    assert np.array_equal(ids, draws.permutation(5, 1, SAMPLES)[:32])  # 8 make no batch
    assert np.array_equal(torch.cat([b["label"] for b in batches]), store.labels[ids])
    views = torch.cat([b["views"] for b in batches]).numpy()
    aug = RECIPE.augmentation
    windows = draws.crop_windows(5, 1, ids, store.sizes[ids], 2, aug.scale, aug.ratio).tolist()
    expected = [[cut(store, i, w, 32) for w in ws] for i, ws in zip(ids, windows, strict=True)]
    difference = np.abs(views - np.array(expected)).mean(axis=(2, 3, 4))
    assert difference.max() < TOLERANCE[engine][0]


@each_case
def test_evaluation_takes_boxes_that_lie_between_pixels(prepared, engine, name):
    store = open_store(prepared[name])
    opened = start(engine, store).engine
    try:
        views = [b.views.clone() for b in EvalLoader(store, RECIPE, opened, CPU, batch=16)]
    finally:
        opened.close()
    assert [len(v) for v in views] == [16, 16, 8]  # to the last, incomplete batch
    boxes = draws.eval_boxes(store.sizes, RECIPE.eval_crop)[:, 0].tolist()
    expected = np.array([cut(store, i, box, 32) for i, box in enumerate(boxes)])
    difference = np.abs(torch.cat(views)[:, 0].numpy() - expected).mean(axis=(1, 2, 3))
    assert difference.max() < TOLERANCE[engine][1]


@each_engine
def test_neither_threads_nor_format_nor_batch_change_a_view(prepared, engine):
    store = open_store(prepared["beton"])
    whole = epoch(engine, store, threads=1)
    assert_same(whole, epoch(engine, store, threads=3))
    if engine != "ffcv":
        for name in FORMATS[1:]:
            assert_same(whole, epoch(engine, open_store(prepared[name])))
    views = {int(i): v for b in whole for i, v in zip(b["index"], b["views"], strict=True)}
    smaller = epoch(engine, store, dataclasses.replace(RECIPE, batch=12))
    met = 0
    for batch in smaller:
        for i, view in zip(batch["index"].tolist(), batch["views"], strict=True):
            met += i in views
            assert i not in views or torch.equal(view, views[i])
    assert met > 20


@each_engine
def test_an_epoch_can_begin_in_its_middle(prepared, engine):
    store = open_store(prepared["beton"])
    recipe = dataclasses.replace(RECIPE, batch=8)
    assert_same(epoch(engine, store, recipe)[2:], epoch(engine, store, recipe, first_step=2))


@each_engine
def test_some_samples_of_a_store_are_those_samples(prepared, engine):
    store = open_store(prepared["raw"])
    some = Subset(store, np.arange(SAMPLES)[::-2])
    out = np.zeros((2, 3, 1, 16, 16, 3), np.uint8)
    for part, chosen, ids in ((out[0], store, [39, 35, 1]), (out[1], some, [0, 2, 19])):
        opened = start(engine, chosen).engine
        windows = np.tile(np.array([2, 3, 40, 50]), (3, 1, 1))
        opened.submit(np.array(ids), windows, part).result()
        opened.close()
    assert np.array_equal(out[0], out[1]) and out[0].std() > 5


def running() -> set[str]:
    """Threads of this process, those of C++ too, and its children, by their numbers."""
    found = set(os.listdir("/proc/self/task"))
    for thread in list(found):
        with contextlib.suppress(OSError):
            found.update(Path(f"/proc/self/task/{thread}/children").read_text().split())
    return found


@each_engine
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads by /proc")
def test_an_early_break_leaves_nothing_running(prepared, engine):
    store = open_store(prepared["beton"])

    def begin_and_break():
        opened = start(engine, store, 3).engine
        loader = TrainLoader(store, dataclasses.replace(RECIPE, batch=4), opened, CPU)
        for _ in loader.epoch(0):
            break
        opened.close()
        return opened  # or its end would stop what close forgot

    _ = begin_and_break()  # libraries start pools of their own, once a process
    before = running()
    _ = begin_and_break()
    deadline = time.monotonic() + 5  # the system takes a moment to strike off what has ended
    while running() - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not running() - before


def damage(path: Path, i: int, how: str) -> tuple[Path, str]:
    """Spoils sample i of a prepared beton in its file; returns the dataset and the sample's key."""
    store = open_store(path)
    key, image = store.key(i), store.encoded(i).tobytes()
    middle = len(image) // 2
    spoiled = {
        # an end of image in the middle of it: all segments stay well formed
        "scan": image[:middle] + b"\xff\xd9" + image[middle + 2 :],
        "cut": image[:middle] + bytes(len(image) - middle),
        "replaced": bytes(len(image)),
    }[how]
    file = path / "train.beton"
    file.write_bytes(file.read_bytes().replace(image, spoiled))
    return path, key


@each_engine
@pytest.mark.parametrize("how", ["scan", "cut", "replaced"])
def test_a_bad_sample_names_itself_and_nothing_hangs(prepared, engine, how, tmp_path):
    shutil.copytree(prepared["beton"], tmp_path / "spoiled")
    third = int(draws.permutation(RECIPE.seed, 1, SAMPLES)[2])
    path, key = damage(tmp_path / "spoiled", third, how)
    if (engine, how) == ("dali", "scan"):  # libjpeg only warns, and DALI takes no notice
        assert len(epoch(engine, open_store(path))) == 2
        return
    with pytest.raises(UserError) as error:
        epoch(engine, open_store(path), dataclasses.replace(RECIPE, batch=4))
    assert key in str(error.value) and "cannot be decoded" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("engine", ["threads", "dali", "ffcv"])  # resident does not start with one
def test_an_engine_goes_on_after_a_bad_sample(prepared, engine, tmp_path):
    shutil.copytree(prepared["beton"], tmp_path / "spoiled")
    path, _ = damage(tmp_path / "spoiled", 0, "replaced")
    opened = start(engine, open_store(path)).engine
    windows = np.tile(np.array([0, 0, 30, 30]), (3, 1, 1))
    out = np.zeros((2, 3, 1, 16, 16, 3), np.uint8)
    bad = opened.submit(np.array([0, 1, 2]), windows, out[0])
    good = opened.submit(np.array([1, 2, 3]), windows, out[1])
    with pytest.raises(UserError):
        bad.result()
    good.result()
    opened.submit(np.array([1, 2, 3]), windows, out[0]).result()
    opened.close()
    fresh = start(engine, open_store(path)).engine
    expected = np.empty_like(out[0])
    fresh.submit(np.array([1, 2, 3]), windows, expected).result()
    fresh.close()
    assert np.array_equal(out[0], expected) and np.array_equal(out[1], expected)


@each_engine
def test_a_file_cut_short_while_it_is_read_is_one_line(prepared, engine, tmp_path):
    shutil.copytree(prepared["beton"], tmp_path / "short")
    opened = start(engine, open_store(tmp_path / "short")).engine
    windows = np.tile(np.array([0, 0, 30, 30]), (4, 1, 1))
    out = np.zeros((4, 1, 16, 16, 3), np.uint8)
    opened.submit(np.arange(4), windows, out).result()
    os.truncate(tmp_path / "short" / "train.beton", 4096)
    if engine == "resident":  # it reads no more
        opened.submit(np.arange(4), windows, out).result()
        opened.close()
        return
    with pytest.raises(UserError, match="became shorter"):
        opened.submit(np.arange(4), windows, out).result()
    opened.close()


def test_auto_takes_threads_on_the_cpu_and_says_why(prepared):
    engine, name, line = open_engine("auto", open_store(prepared["beton"]), 2)
    engine.close()
    assert name == "threads" and line == "threads (2 threads; the fastest on CPUs)"


def test_a_trial_of_dali_that_fails_is_told_and_ends_nothing(prepared, monkeypatch):
    def broken(*args):
        raise TypeError("nvJPEG has no such argument\nand more")

    monkeypatch.setattr("fastmoco.loading.engines.registry.DaliEngine", broken)
    store = open_store(prepared["beton"])
    engine, name, line = open_engine("auto", store, 2, torch.device("cuda"))
    engine.close()
    assert name == "threads" and "does not work here: nvJPEG has no such argument)" in line


def test_auto_tries_dali_for_a_cuda_device_and_reports_its_choice(prepared):
    """Without such a device DALI says so; with one, the faster engine is chosen."""
    pytest.importorskip("nvidia.dali")
    store = open_store(prepared["beton"])
    engine, name, line = open_engine("auto", store, 2, torch.device("cuda"))
    engine.close()
    if torch.cuda.is_available():
        assert line.startswith(f"{name} (2 threads; tried here: threads ")
    else:
        assert name == "threads" and "--engine dali does not start: " in line
    mixed = open_engine("auto", open_store(prepared["raw"]), 2, torch.device("cuda"))
    mixed.engine.close()
    assert mixed.name == "threads" and "not all images are JPEGs" in mixed.line


def test_what_dali_does_not_take_is_told_in_its_words(prepared):
    store = open_store(prepared["beton"])
    opened = start("dali", store).engine
    beyond = np.tile(np.array([0, 0, 500, 500]), (3, 1, 1))
    with pytest.raises(UserError) as error:
        opened.submit(np.arange(3), beyond, np.empty((3, 1, 16, 16, 3), np.uint8)).result()
    opened.close()
    assert "batch of 3 samples" in str(error.value) and "out of bounds" in str(error.value)


def test_a_file_changed_for_another_is_told(prepared):
    store = open_store(prepared["beton"])
    store.sizes[:] += 1  # as if the image were another one
    told = bad_sample(store, np.arange(3), "DALI", "no")
    assert store.key(0) in str(told) and "not of the size in the index" in str(told)


def test_training_tells_its_engine_and_resumes_with_it(prepared, tmp_path, capsys):
    pytest.importorskip("nvidia.dali")
    args = ["train", prepared["tfrecord"], *TINY, "--out", tmp_path / "run", "--json"]
    for more in (["--engine", "dali", "--epochs", "1"], ["--resume"]):
        code, out, _ = run(capsys, *args[: 2 if "--resume" in more else None],
                           *(["--out", tmp_path / "run", "--json"] if "--resume" in more else []),
                           *more)
        assert code == 0
        started = json.loads(out.splitlines()[0])
        assert started["engine"].startswith("dali (")
        assert "not to the same bits" not in out


def test_bench_measures_the_engine_that_it_is_told(prepared, capsys):
    pytest.importorskip("nvidia.dali")
    code, out, _ = run(capsys, "bench", prepared["beton"], *TINY, "--engine", "dali", "--threads",
                       "1", "--rounds", "1", "--seconds", "0.05", "--json")
    assert code == 0 and json.loads(out)["engine"] == "dali (1 thread)"


def test_ffcv_leaves_torchs_threads_and_numbas_types_as_they_were(prepared):
    pytest.importorskip("ffcv", exc_type=ImportError)
    code = "import sys, numba, torch; torch.set_num_threads(3); bytes = numba.uint8[::1]; " \
        "from data_tools.open import open_store; " \
        "from fastmoco.loading.engines.registry import open_engine; " \
        "open_engine('ffcv', open_store(sys.argv[1])); " \
        "print(torch.get_num_threads(), bytes.mutable)"
    done = subprocess.run(
        [sys.executable, "-c", code, prepared["beton"]], capture_output=True, text=True, check=True
    )
    assert done.stdout == "3 True\n"


def test_an_unknown_engine_is_refused_in_one_line(prepared, capsys):
    assert "turbo" in refused(capsys, "train", prepared["beton"], "--engine", "turbo")
    with pytest.raises(UserError, match="there are auto, threads, resident, dali, ffcv"):
        open_engine("turbo", open_store(prepared["beton"]))


def test_ffcv_reads_betons_alone(prepared, capsys):
    for command in ("train", "bench"):
        line = refused(capsys, command, prepared["tfrecord"], *TINY, "--engine", "ffcv")
        assert "--engine ffcv reads betons" in line and "--format beton" in line


@pytest.mark.parametrize("engine", list(MODULES))
def test_an_engine_that_is_not_installed_says_what_to_install(prepared, engine, tmp_path):
    code = f"import sys; sys.modules[{MODULES[engine]!r}] = None; " \
        "from fastmoco.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "train", prepared["beton"], *TINY, "--engine", engine,
         "--out", tmp_path / "run"],
        capture_output=True, text=True,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"pip install 'fastmoco[{engine}]'" in done.stderr
