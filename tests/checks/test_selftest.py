"""selftest passes here, and names the part that is broken."""

import json

import numpy as np
import pytest
from torch import nn

import fastmoco.checks.selftest as selftest_module
from data_tools.store import MappedStore
from fastmoco.checks.selftest import CHECKS, draw, selftest
from fastmoco.model import batchnorm
from fastmoco.weights import checkpoint
from tests.support.command_line import run
from tests.support.evaluation_parts import CPU


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("selftest")
    draw(folder / "images")
    return folder


def run_check(name, images, tmp_path):
    """One check on the images that are drawn for it."""
    (tmp_path / "images").symlink_to(images / "images")
    return CHECKS[name](CPU, tmp_path)


def test_this_machine_passes(capsys):
    code, out, err = run(capsys, "selftest", "--device", "cpu", "--json")
    found = json.loads(out)
    assert code == 0 and not err and found["passed"] and found["device"] == "cpu"
    assert [c["name"] for c in found["checks"]] == list(CHECKS)
    assert all(c["passed"] is True for c in found["checks"])
    assert "0 of 149 tensors differ" in found["checks"][-1]["found"]


def scaled(function, by):
    def wrong(*args, **kwargs):
        loss, accuracy = function(*args, **kwargs)
        return loss * by, accuracy

    return wrong


def test_a_broken_part_is_named(capsys, monkeypatch):
    some = {k: v for k, v in CHECKS.items() if k not in ("resume, to the bit", "views = Pillow's")}
    monkeypatch.setattr(selftest_module, "CHECKS", some)
    wrong = scaled(selftest_module.info_nce_streaming, 1 + 1e-6)
    monkeypatch.setattr(selftest_module, "info_nce_streaming", wrong)
    code, out, err = run(capsys, "selftest", "--device", "cpu")
    assert code == 1 and "4 of 5 checks passed" in out
    assert "FAILED  streaming loss = plain loss: " in out and out.count("FAILED") == 1
    assert err.startswith("failed: streaming loss = plain loss: ") and err.count("\n") == 1
    assert "1e-10 allowed" in err


def test_what_breaks_off_has_failed_and_the_rest_goes_on(monkeypatch):
    def broken(device, folder):
        raise ImportError("libjpeg:\n no such file")

    some = {"a": broken, "b": CHECKS["Algorithm 1"]}
    monkeypatch.setattr(selftest_module, "CHECKS", some)
    a, b = selftest(CPU)
    assert a.passed is False and a.found == "ImportError: libjpeg: no such file"
    assert b.passed is True


# Each function breaks one part, by as little as might happen.


def late_momentum(monkeypatch):
    update = selftest_module.MoCo.update

    def late(self, out):
        self.m, m = self.m + 1e-6, self.m
        update(self, out)
        self.m = m

    monkeypatch.setattr(selftest_module.MoCo, "update", late)


def flipped_queue(monkeypatch):
    enqueue = selftest_module.Queue.enqueue
    monkeypatch.setattr(
        selftest_module.Queue, "enqueue", lambda self, keys: enqueue(self, keys.flip(0))
    )


def loss_not_a_number(monkeypatch):
    wrong = scaled(selftest_module.info_nce_streaming, float("nan"))
    monkeypatch.setattr(selftest_module, "info_nce_streaming", wrong)


def batchnorm_not_split(monkeypatch):
    monkeypatch.setattr(batchnorm.SplitBatchNorm2d, "forward", nn.BatchNorm2d.forward)


def last_byte_zero(monkeypatch):
    encoded = MappedStore.encoded

    def wrong(self, i):
        return np.concatenate([np.asarray(encoded(self, i))[:-1], np.zeros(1, np.uint8)])

    monkeypatch.setattr(MappedStore, "encoded", wrong)


def swapped_labels(monkeypatch):
    opened = selftest_module.open_store

    def swapped(path):
        store = opened(path)
        store.classes = store.classes[::-1]
        return store

    monkeypatch.setattr(selftest_module, "open_store", swapped)


def shifted_box(monkeypatch):
    boxes = selftest_module.draws.eval_boxes
    # The loader's boxes, which the engine cuts, are half a pixel too far to the right.
    monkeypatch.setattr(
        "fastmoco.loading.train_loader.draws.eval_boxes",
        lambda *a: boxes(*a) + np.array([0, 0.5, 0, 0]),
    )
    monkeypatch.setattr(selftest_module, "draws", Shifted(boxes))


def shifted_colour(monkeypatch):
    form = selftest_module.augmentation
    monkeypatch.setattr(
        selftest_module, "augmentation",
        lambda options, device: (lambda *a: form(options, device)[0](*a) + 3e-4, "off", None),
    )


def wrong_momentum_in(number):
    """Break the checkpoint read as the `number`th: of the whole run, of the run that is resumed,
    of the resumed run."""
    def broken(monkeypatch):
        load, seen = checkpoint.load, []

        def forgets(path, *rest):
            loaded = load(path, *rest)
            seen.append(path)
            if len(seen) == number:
                loaded.optimizer["state"][0]["momentum_buffer"] += 1e-6
            return loaded

        monkeypatch.setattr(checkpoint, "load", forgets)

    return broken


class Shifted:
    """fastmoco.draws with its own boxes, whatever the loader has."""

    def __init__(self, boxes):
        self.eval_boxes = boxes


@pytest.mark.parametrize(("broken", "name"), [
    (late_momentum, "Algorithm 1"),
    (flipped_queue, "Algorithm 1"),
    (loss_not_a_number, "streaming loss = plain loss"),
    (batchnorm_not_split, "split BatchNorm = its parts"),
    (last_byte_zero, "prep, open, verify"),
    (swapped_labels, "prep, open, verify"),
    (shifted_box, "views = Pillow's"),
    (shifted_colour, "augmentation = its plain form"),
    (wrong_momentum_in(2), "resume, to the bit"),
    (wrong_momentum_in(3), "resume, to the bit"),
])
def test_each_check_sees_what_it_is_for(broken, name, images, tmp_path, monkeypatch):
    broken(monkeypatch)
    passed, found = run_check(name, images, tmp_path)
    assert not passed, found


@pytest.mark.parametrize(("argv", "words"), [
    (["--imagenet", "VAL"], "--imagenet goes with --checkpoint"),
    (["--linear"], "--linear goes with --checkpoint"),
    (["--checkpoint", "a.pth"], "add --imagenet VAL"),
    (["--checkpoint", "none.pth", "--imagenet", "VAL"], "none.pth"),
    (["--device", "tpu"], "use auto, cpu"),
])
def test_what_lacks_is_told_in_one_line(argv, words, capsys):
    code, _, err = run(capsys, "selftest", *argv)
    assert code == 2 and err.startswith("fastmoco: ") and err.count("\n") == 1 and words in err
