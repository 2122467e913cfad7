"""The front door checks types, and its errors name arguments instead of flags."""

import dataclasses
import inspect
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

import fastmoco
from data_tools.errors import UserError
from fastmoco.verbs.argument_types import WrongType, fitted
from fastmoco.verbs.python_names import in_python

HINTS = {
    "batch": int, "lr": float, "rates": tuple[float, ...], "keep": bool, "resume": bool,
    "shared": bool,
    "mechanism": Literal["queue", "end-to-end"], "stats": Literal["recipe", "data"],
    "max_side": int | None, "device": str, "budget": str, "bn_splits": int, "init": str,
}


@pytest.mark.parametrize(("flags", "python"), [
    ("--batch 0: give 1 or more", "batch=0: give 1 or more"),
    ("--rates 1 -2: give rates above 0", "rates=(1, -2): give rates above 0"),
    ("--rates 0.0: give rates above 0", "rates=(0.0,): give rates above 0"),
    ("--rates nan: above 0; or --lr", "rates=(nan,): above 0; or `lr`"),
    ("--budget soon: give 90s", "budget='soon': give 90s"),
    ("--budget soon: give --budget 90s or more", "budget='soon': give budget='90s' or more"),
    ("--init my run/a.pt: is of --bn-splits 2", "init='my run/a.pt': is of bn_splits=2"),
    ("--batch is 4, below 8: use --batch 8 or more", "`batch` is 4, below 8: use batch=8 or more"),
    ("--shared goes with --mechanism end-to-end", "shared=True goes with mechanism='end-to-end'"),
    ("x: use --stats recipe", "x: use stats='recipe'"),
    ("--batch and --lr: give 1", "`batch` and `lr`: give 1"),
    ("make room and go on with --resume", "make room and go on with resume=True"),
    ("use --no-keep", "use keep=False"),
    ("--device gpu7 does not start: use it", "device='gpu7' does not start: use it"),
    ("--batch 7 is small for 8: more", "batch=7 is small for 8: more"),
    ("give another --out", "give another `out`"),
    ("not an output of fastmoco knn --json", "not an output of fastmoco knn --json"),
    ("raw with --max-side None: no", "raw with max_side=None: no"),
    ("--device tpu: use --device cpu", "device='tpu': use device='cpu'"),
    ("add --imagenet VAL, and --train TRAIN", "add imagenet=VAL, and train=TRAIN"),
    ("/data/a--batch 3/x.jpg: damaged", "/data/a--batch 3/x.jpg: damaged"),
])
def test_errors_in_python_words(flags, python):
    assert in_python(flags, HINTS) == python
    assert in_python(python, HINTS) == python


@pytest.mark.parametrize(("hint", "given", "taken"), [
    (int, np.int64(3), 3), (float, 1, 1.0), (float, np.float32(0.5), 0.5), (str, Path("a"), "a"),
    (Path, "a/b", Path("a/b")), (tuple[int, ...], [1, 2], (1, 2)), (bool, np.bool_(True), True),
    (int | None, None, None), (Sequence[str], ["a"], ("a",)), (Literal["a", "b"], "b", "b"),
    (Callable[[str], None], print, print),
])
def test_harmless_types_are_converted(hint, given, taken):
    found = fitted(hint, given, "x")
    assert found == taken and type(found) is type(taken)


@pytest.mark.parametrize(("hint", "given", "line"), [
    (int, "64", "x='64': is of type str; give int"),
    (int, True, "x=True: is of type bool; give int"),
    (int | None, 1.5, "x=1.5: is of type float; give int or None"),
    (bool, 1, "x=1: is of type int; give bool"),
    (str, 3, "x=3: is of type int; give str"),
    (tuple[float, ...], 30, "x=30: is of type int; give a sequence of float"),
    (tuple[int, ...], ["a"], "x=['a']: is of type list; give a sequence of int"),
    (Callable[[str], None], 3, "x=3: is of type int; give a function"),
    (fastmoco.Recipe, "v2", "x='v2': is of type str; give Recipe"),
])
def test_wrong_types_are_one_line(hint, given, line):
    with pytest.raises(WrongType) as caught:
        fitted(hint, given, "x")
    assert str(caught.value) == line
    assert isinstance(caught.value, TypeError) and isinstance(caught.value, UserError)


def test_a_text_that_is_not_allowed_lists_the_allowed_ones():
    with pytest.raises(UserError, match=r"^to='keras': give 'torchvision' or 'timm' or"):
        fastmoco.export("runs/none", "keras")
    with pytest.raises(UserError, match=r"^x='c': give 'a' or 'b'$"):
        fitted(Literal["a", "b"] | None, "c", "x")


def test_fields_of_settings_are_checked_too(dataset):
    recipe = dataclasses.replace(fastmoco.MOCO_V2, epochs="3")
    with pytest.raises(WrongType, match=r"^recipe.epochs='3': is of type str; give int$"):
        fastmoco.train(dataset, recipe)
    with pytest.raises(WrongType, match=r"^options.keep=True: is of type bool; give int$"):
        fastmoco.train(dataset, options=fastmoco.RunOptions(keep=True))


def test_misspelt_missing_and_repeated_arguments_are_pythons_own_error():
    with pytest.raises(TypeError, match=r"^train\(\) got an unexpected keyword argument 'epoch'$"):
        fastmoco.train("data", epoch=3)
    with pytest.raises(TypeError, match=r"^knn\(\) missing a required argument: 'train'$"):
        fastmoco.knn("runs/a")
    with pytest.raises(TypeError, match=r"^verify\(\) multiple values for argument 'path'$"):
        fastmoco.verify("a", path="b")


def test_errors_of_the_library_name_arguments(dataset, tmp_path):
    for line, call in {
        "batch=-1: give 1 or more": lambda: fastmoco.train(dataset, batch=-1),
        "threads=-1: give 1 or more, or 0": lambda: fastmoco.train(
            dataset, fastmoco.MOCO_CIFAR, fastmoco.RunOptions(threads=-1), out=tmp_path / "run"),
        "recipe='v9': there are moco-v1": lambda: fastmoco.train(dataset, "v9"),
        "augmentation='v3': there are v1, v2": lambda: fastmoco.views(dataset, augmentation="v3"),
        "`memory` goes with dry_run=True": lambda: fastmoco.train(dataset, memory="8GB"),
        "quality=0: give 1 to 100": lambda: fastmoco.prepare("a", "b", quality=0),
        "`shard` and engine='ray': give one": lambda: fastmoco.prepare(
            "a", "b", shard="0/2", engine="ray"),
        "`disk` goes with plan=True": lambda: fastmoco.prepare("a", "b", disk="1GB"),
        "count=0: give 1 or more": lambda: fastmoco.views(dataset, tmp_path / "a.png", 0),
        r"k=\(0,\): give numbers above 0": lambda: fastmoco.knn("runs/none", dataset, k=[0]),
        "checkpoint=\"\": an empty path": lambda: fastmoco.load(""),
        "`imagenet` goes with `checkpoint`, a": lambda: fastmoco.selftest(imagenet="val"),
        "dir='.*none': no such folder": lambda: fastmoco.doctor(tmp_path / "none"),
    }.items():
        with pytest.raises(UserError, match=f"^{line}") as caught:
            call()
        assert "--" not in str(caught.value), caught.value


def test_public_functions_pickle_and_show_their_arguments():
    assert pickle.loads(pickle.dumps(fastmoco.knn)) is fastmoco.knn
    shown = inspect.signature(fastmoco.train)
    assert repr(shown.parameters["epochs"].default) == "<recipe.epochs>"
    assert inspect.signature(fastmoco.prepare).parameters["quality"].default == 90
