"""Odd WebDataset shards, each with the samples and classes that are right."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

Members = Sequence[tuple[str, bytes]]


def picture(height: int, form: str = "JPEG") -> bytes:
    ramp = np.arange(height * 24 * 3, dtype=np.uint32).reshape(height, 24, 3) % 251
    out = io.BytesIO()
    Image.fromarray(ramp.astype(np.uint8)).save(out, form, quality=90)
    return out.getvalue()


# Tests recognise them by their heights.
A, B, C, D = (picture(height) for height in (8, 10, 12, 14))
MASK = picture(6, "PNG")


def tar(members: Members, form: int = tarfile.PAX_FORMAT, links: Members = ()) -> bytes:
    """Make a tar. links: (name, target); a target that starts with "->" makes a symbolic link."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
        for name, target in links:
            info = tarfile.TarInfo(name)
            symbolic = target.startswith(b"->")
            info.type = tarfile.SYMTYPE if symbolic else tarfile.LNKTYPE
            info.linkname = target.decode().removeprefix("->")
            file.addfile(info)
    return out.getvalue()


class Case(NamedTuple):
    data: bytes
    samples: list[tuple[str, bytes, int]]
    """(key, image, label)"""
    classes: list[str]


def numbered(count: int) -> list[str]:
    return [str(i) for i in range(count)]


LONG = "d" * 90 + "/" + "e" * 90
PLAIN = [("a.jpg", A), ("a.cls", b"1"), ("b.jpg", B), ("b.cls", b"0")]
BOTH = [("a", A, 1), ("b", B, 0)]
MORE = [("c.jpg", C), ("c.cls", b"2")]
CASES = {
    "a mask before the picture": Case(
        tar([("b.seg.png", MASK), ("b.jpg", A), ("b.cls", b"3"), ("c.jpg", B), ("c.mask.png", MASK),
             ("c.cls", b"0")]),
        [("b", A, 3), ("c", B, 0)], numbered(4)),
    "a png mask of the jpg's name": Case(
        tar([("b.png", MASK), ("b.jpg", A), ("b.cls", b"0")]), [("b", A, 0)], ["0"]),
    "large numbers as labels": Case(
        tar([("a.jpg", A), ("a.cls", b"70000"), ("b.jpg", B), ("b.cls", b"5")]),
        [("a", A, 1), ("b", B, 0)], ["5", "70000"]),
    "numbers below zero": Case(
        tar([("a.jpg", A), ("a.cls", b"-5"), ("b.jpg", B), ("b.cls", b"-1"), ("c.jpg", C),
             ("c.cls", b"2")]),
        [("a", A, 0), ("b", B, -1), ("c", C, 1)], ["-5", "2"]),
    "whole numbers written as floats": Case(
        tar([("a.jpg", A), ("a.cls", b"2.0"), ("b.jpg", B), ("b.json", b'{"label": 1.0}'),
             ("c.jpg", C), ("c.json", b'{"label": NaN}')]),
        [("a", A, 2), ("b", B, 1), ("c", C, -1)], numbered(3)),
    "names": Case(
        tar([("a.jpg", A), ("a.cls", "über".encode()), ("b.jpg", B), ("b.cls", b"7"),
             ("c.jpg", C), ("c.cls", b"cat\0\n"), ("d.jpg", D),
             ("d.json", b'{"cls": "a\\ud800"}')]),
        [("a", A, 3), ("b", B, 0), ("c", C, 2), ("d", D, 1)], ["7", "a?", "cat", "über"]),
    "hidden folders and files": Case(
        tar([("x/a.jpg", A), ("x/a.cls", b"0"), (".hid/c.jpg", C), (".hid/c.cls", b"1"),
             ("__MACOSX/a.jpg", C), ("x/._a.jpg", C), ("./y/b.jpg", B), ("y//b.cls", b"1")]),
        [("x/a", A, 0), ("y/b", B, 1)], ["0", "1"]),
    "an empty .cls beside a json label": Case(
        tar([("a.jpg", A), ("a.cls", b" \n"), ("a.json", b'{"label": 4}'), ("b.cls", b""),
             ("b.jpg", B)]),
        [("a", A, 4), ("b", B, -1)], numbered(5)),
    "a key twice": Case(
        tar([("a.jpg", A), ("a.jpg", B), ("a.cls", b"1"), ("b.jpg", C), ("b.cls", b"0"),
             ("a.jpg", D)]),
        [("a", A, -1), ("a~2", B, 1), ("b", C, 0), ("a~3", D, -1)], ["0", "1"]),
    "capital suffixes and CRLF": Case(
        tar([("a.JPG", A), ("a.CLS", b"1\r\n"), ("b.Jpeg", B), ("b.cls", b"\xef\xbb\xbf0\r\n")]),
        BOTH, ["0", "1"]),
    "suffixes of every table": Case(
        tar([("a.jfif", A), ("a.cls", b"1"), ("b.pnm", B), ("b.cls", b"0")]), BOTH, ["0", "1"]),
    "pax names": Case(
        tar([(f"{'ü' * 120} x\n1.jpg", A), (f"{'ü' * 120} x\n1.cls", b"0")]),
        [(f"{'ü' * 120} x\n1", A, 0)], ["0"]),
    "GNU names": Case(
        tar([(f"{LONG}/1.jpg", A), (f"{LONG}/1.cls", b"0")], tarfile.GNU_FORMAT),
        [(f"{LONG}/1", A, 0)], ["0"]),
    "names that are not UTF-8": Case(
        tar([("\udcfc.jpg", A), ("\udcfc.cls", b"0")], tarfile.GNU_FORMAT),
        [("\udcfc", A, 0)], ["0"]),
    "names that lead elsewhere": Case(
        tar([("/etc/a.jpg", A), ("/etc/a.cls", b"1"), ("../up.jpg", B), ("../up.cls", b"2"),
             ("z/b.jpg", C), ("z/b.cls", b"0")]),
        [("etc/a", A, 1), ("z/b", C, 0)], ["0", "1"]),
    "links": Case(
        tar([("a.jpg", A), ("a.cls", b"1"), ("f/b.jpg", B), ("f/b.cls", b"0")],
            links=[("f/c.jpg", b"f/b.jpg"), ("f/c.cls", b"->../a.cls"), ("f/d.jpg", b"->c.jpg"),
                   ("f/e.jpg", b"/etc/passwd"), ("f/e.cls", b"a.cls"), ("f/g.jpg", b"f/g.jpg")]),
        [("a", A, 1), ("f/b", B, 0), ("f/c", B, 1), ("f/d", B, -1)], ["0", "1"]),
    "two tars joined": Case(tar(PLAIN) + tar(MORE), [*BOTH, ("c", C, 2)], numbered(3)),
    "three joined, without padding, the first cut at its end mark": Case(
        tar(PLAIN).rstrip(b"\0").ljust(-(-len(tar(PLAIN).rstrip(b"\0")) // 512) * 512, b"\0")
        + tar(MORE).rstrip(b"\0").ljust(4096, b"\0") + bytes(512) + tar([("d.jpg", D)]),
        [*BOTH, ("c", C, 2), ("d", D, -1)], numbered(3)),
    "padded with zeros": Case(tar(PLAIN) + bytes(1 << 20), BOTH, ["0", "1"]),
    "the rest of the last record undefined": Case(
        tar(PLAIN).rstrip(b"\0") + bytes(3000) + b"left over", BOTH, ["0", "1"]),
    "a few bytes behind its end": Case(tar(PLAIN) + b"\r\n" * 200, BOTH, ["0", "1"]),
    "dotted: dates": Case(
        tar([(f"22.{i:02d}.{end}", data) for i, image in ((5, A), (6, B), (7, C))
             for end, data in (("cls", b"%d" % (i % 2)), ("jpg", image))]),
        [("22.05", A, 1), ("22.06", B, 0), ("22.07", C, 1)], ["0", "1"]),
    "dotted: one image a day": Case(
        tar([("22.05.jpg", A), ("22.05.cls", b"1"), ("23.05.jpg", B), ("23.05.cls", b"0")]),
        [("22.05", A, 1), ("23.05", B, 0)], ["0", "1"]),
    "dotted: versions, with the plain name too": Case(
        tar([("img_v1.jpg", A), ("img_v1.cls", b"0"), ("img_v1.2.jpg", B), ("img_v1.2.cls", b"1"),
             ("img_v1.3.jpg", C)]),
        [("img_v1", A, 0), ("img_v1.2", B, 1), ("img_v1.3", C, -1)], ["0", "1"]),
    "dotted: numbers": Case(
        tar([("0.5_0.7.jpg", A), ("0.5_0.7.json", b'{"label": 2}'), ("0.5_0.8.jpg", B),
             ("0.5_0.8.json", b'{"label": 0}'), ("1.5_0.7.jpg", C), ("1.5_0.7.json", b"{}")]),
        [("0.5_0.7", A, 2), ("0.5_0.8", B, 0), ("1.5_0.7", C, -1)], numbered(3)),
    "dotted: words, folders with dots": Case(
        tar([("v1.2/john.smith.jpg", A), ("v1.2/john.smith.cls", b"x"), ("v1.2/john.doe.jpg", B),
             ("v1.2/john.doe.cls", b"y"), ("v1.3/ann.jpg", C), ("v1.3/ann.cls", b"x")]),
        [("v1.2/john.smith", A, 0), ("v1.2/john.doe", B, 1), ("v1.3/ann", C, 0)], ["x", "y"]),
    "dotted: a thousand of one key": Case(
        tar([(f"2022.{i:04d}.{end}", data) for i in range(400)
             for end, data in (("jpg", (A, B)[i % 2]), ("cls", b"%d" % (i % 3)))]),
        [(f"2022.{i:04d}", (A, B)[i % 2], i % 3) for i in range(400)], numbered(3)),
    "dotted: names that end like a mask's": Case(
        tar([("my.mask.jpg", A), ("my.mask.cls", b"1"), ("my.depth.01.jpg", B),
             ("my.depth.01.cls", b"0"), ("my.depth.02.jpg", C)]),
        [("my.mask", A, 1), ("my.depth.01", B, 0), ("my.depth.02", C, -1)], ["0", "1"]),
    "masks with files of their own": Case(
        tar([("b.jpg", A), ("b.cls", b"1"), ("b.seg.png", MASK), ("b.seg.json", b"{}"),
             ("b.left_mask1.png", MASK), ("c.rgb.jpg", B), ("c.seg.png", MASK), ("c.cls", b"0")]),
        [("b", A, 1), ("c", B, 0)], ["0", "1"]),
    "several views with one label": Case(
        tar([("a.left.jpg", A), ("a.right.jpg", B), ("a.cls", b"1"), ("b.left.jpg", C),
             ("b.right.jpg", D), ("b.cls", b"0")]),
        [("a", A, 1), ("b", C, 0)], ["0", "1"]),
}
