"""Small files that ask for much: time and memory stay in proportion, and the reason is said."""

import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_tools.images.codec import quiet_pillow
from data_tools.images.jpeg_header import sniff_jpeg
from data_tools.images.prepare_image import BadImage, prepare_image
from data_tools.images.sniff import sniff
from data_tools.images.tiff_header import read_tiff
from data_tools.policy import Policy
from data_tools.store import OTHER
from tests.support.made_files.handmade_images import chunk, png, tiff
from tests.support.made_files.sample_images import encode, jpeg, smooth

ROOT = Path(__file__).parents[3]
SECONDS, MEGABYTES = 3.0, 120
PIXELS = np.arange(64, dtype=np.uint8).reshape(8, 8)


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def scans(height: int, width: int, count: int) -> bytes:
    """A progressive JPEG of some size whose last scan, a few bytes, comes again and again."""
    data = bytearray(encode(Image.fromarray(smooth(16, 16)), "JPEG", progressive=True))
    frame = data.index(b"\xff\xc2")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    last = data.rindex(b"\xff\xda")
    return bytes(data[:last] + data[last:-2] * count + b"\xff\xd9")


def many_tags(directories: int) -> bytes:
    """TIFF directories of 60,000 tags each, every one of them with the whole file as its value."""
    count, size = 60_000, 200_000
    table = b"".join(
        struct.pack("<HHII", 1000 + tag, 7, size, 8) for tag in range(count)
    )  # fmt: skip
    front = struct.pack("<HHII", 256, 4, 1, 8) + struct.pack("<HHII", 257, 4, 1, 8)
    out, at = b"II*\0\x08\0\0\0", 8
    for n in range(directories):
        at += 2 + 12 * (count + 2) + 4
        last = n == directories - 1
        out += struct.pack("<H", count + 2) + front + table + struct.pack("<I", 0 if last else at)
    return out


def circle() -> bytes:
    data = bytearray(tiff(PIXELS, 8, PIXELS.tobytes()))
    entries = struct.unpack_from("<H", data, 8)[0]
    data[10 + 12 * entries : 14 + 12 * entries] = struct.pack("<I", 8)
    return bytes(data)


def overlapping() -> bytes:
    """Directories that begin two bytes apart, each with most of the file as its entries."""
    body = bytearray(b"II*\0\x08\0\0\0")
    body += struct.pack("<H", 5000) * 40_000
    return bytes(body)


def gif_bomb() -> bytes:
    """A GIF of 11,000 x 11,000 pixels whose codes end at once."""
    size = struct.pack("<HH", 11_000, 11_000)
    head = b"GIF89a" + size + b"\x80\0\0" + b"\0\0\0\xff\xff\xff"
    return head + b"," + bytes(4) + size + b"\0" + b"\x02\x02\x4c\x01\0;"


def huge(form: str) -> bytes:
    """A file whose header alone says that it is huge."""
    data = bytearray(encode(Image.fromarray(smooth(16, 16)), form))
    if form == "WEBP":
        at = data.index(b"VP8 ") + 14
        data[at : at + 4] = struct.pack("<HH", 16383, 16383)
    elif form == "JPEG2000":
        at = data.index(b"\xff\x4f\xff\x51") + 8
        data[at : at + 8] = struct.pack(">II", 1 << 30, 1 << 30)
        data[at + 16 : at + 24] = struct.pack(">II", 1 << 30, 1 << 30)
        ihdr = data.index(b"ihdr") + 4
        data[ihdr : ihdr + 8] = struct.pack(">II", 1 << 30, 1 << 30)
    elif form == "AVIF":
        at = data.index(b"ispe") + 8
        data[at : at + 8] = struct.pack(">II", 60_000, 60_000)
    return bytes(data)


BOMBS = {
    "a JPEG of 65,500 x 65,500 in many scans": scans(65500, 65500, 5000),
    "a JPEG of 120 megapixels in 90 scans": scans(11_000, 11_000, 90),
    "a JPEG of 120 megapixels cut in 90 scans": scans(11_000, 11_000, 90)[:-2],
    "a JPEG of many small segments": jpeg()[:2] + segment(0xFE, b"") * 500_000 + jpeg()[2:],
    "a JPEG of comments in its XMP": jpeg()[:2] + segment(
        0xE1, b"http://ns.adobe.com/xap/1.0/\0tiff:Orientation" + b"<!--" * 12_000
    ) * 40 + jpeg()[2:],
    "a PNG of much text": png(PIXELS, 8, 0, *[
        chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 23)))] * 60),
    "a PNG of one large text": png(PIXELS, 8, 0, chunk(
        b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(1 << 28)))),
    "a PNG of a large profile": png(PIXELS, 8, 0, chunk(
        b"iCCP", b"a\0\0" + zlib.compress(bytes(1 << 28)))),
    "a TIFF of large tags": many_tags(1),
    "a TIFF of large tags in many directories": many_tags(6),
    "a TIFF that goes round": circle(),
    "a TIFF of overlapping directories": overlapping(),
    "a TIFF of a huge tile": tiff(PIXELS, 8, b"\0" * 8, w=(322, 1 << 15), l=(323, 1 << 15),
                                  o=(324, 8)),
    "a TIFF of a huge strip": tiff(PIXELS, 8, PIXELS.tobytes(), rows=(278, 1 << 31)),
    "a TIFF of 65,535 bands": tiff(PIXELS, 8, b"\0" * 8, bands=(277, 65535)),
    "a GIF": gif_bomb(),
    "a WebP": huge("WEBP"), "a JPEG 2000": huge("JPEG2000"), "an AVIF": huge("AVIF"),
    "a PPM": b"P3 11000 11000 255\n1 2 3", "a PPM of comments": b"P2\n" + b"# \n" * 300_000,
    "markup": b"<!---->" * 500_000, "blanks": b" " * 3_000_000, "an XBM": b"#define " * 400_000,
}  # fmt: skip
# Only the headers of these say how long they are, and the decoder takes the image's memory.
LARGE = ("a GIF", "a PPM")

RUN = """
import sys, time
from data_tools.images.prepare_image import BadImage, prepare_image
from data_tools.policy import Policy
from data_tools.images.codec import quiet_pillow

def peak():
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) >> 10

for path in sys.argv[1:]:
    data = open(path, "rb").read()
    open("/proc/self/clear_refs", "w").write("5")
    before, started = peak(), time.perf_counter()
    try:
        with quiet_pillow():
            prepare_image(data, Policy())
        reason = "stored"
    except BadImage as error:
        reason = str(error)
    print(time.perf_counter() - started, peak() - before, reason, sep=chr(9))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's own figures")
def test_time_and_memory_stay_in_proportion(tmp_path: Path) -> None:
    paths = []
    for i, data in enumerate(BOMBS.values()):
        paths.append(tmp_path / str(i))
        paths[-1].write_bytes(data)
    command = [sys.executable, "-c", RUN, *paths]
    output = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=120)
    lines = output.stdout.splitlines()
    assert len(lines) == len(BOMBS), output.stderr
    for name, line in zip(BOMBS, lines, strict=True):
        seconds, megabytes, reason = line.split("\t")
        assert float(seconds) < SECONDS, (name, line)
        assert int(megabytes) < (2000 if name in LARGE else MEGABYTES), (name, line)
        assert reason, name


def wide_canvas() -> bytes:
    """A WebP with alpha whose first chunk claims a canvas that its frame does not fill."""
    data = bytearray(encode(Image.new("RGBA", (8, 8), (1, 2, 3, 4)), "WEBP"))
    assert data[12:16] == b"VP8X"
    data[24:30] = (2435586 - 1).to_bytes(3, "little") + (6145 - 1).to_bytes(3, "little")
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (scans(11_000, 11_000, 90), "JPEG of more than 17 scans at 11000 x 11000 pixels"),
        (scans(16, 16, 200), "JPEG of more than 100 scans"),
        (scans(65500, 65500, 5000), "JPEG of more than 1 scans at 65500 x 65500 pixels"),
        (many_tags(1), "damaged TIFF: its tags claim more bytes than it has"),
        (huge("WEBP"), "more than 134217728 pixels: 16383 x 16383"),
        (wide_canvas(), "more than 134217728 pixels: 2435586 x 6145"),
        (huge("JPEG2000"), "more than 134217728 pixels: 1073741824 x 1073741824"),
    ],
)
def test_the_reason_is_said(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage) as caught, quiet_pillow():
        prepare_image(data, Policy())
    assert str(caught.value) == reason


def test_a_store_of_others_looks_at_such_a_file_no_closer() -> None:
    begun = time.perf_counter()
    assert sniff(many_tags(1)) == (OTHER, 0, 0, 0)
    assert time.perf_counter() - begun < 1
    assert sniff(circle()) == (OTHER, 8, 8, 0)


def test_scans_that_encoders_write_are_taken() -> None:
    assert sniff_jpeg(scans(4000, 6000, 40), whole=True).width == 6000
    assert sniff_jpeg(scans(11_000, 11_000, 5), whole=True).width == 11_000


def test_directories_in_a_circle_are_read_once() -> None:
    assert len(read_tiff(circle()).pages) == 1
    assert prepare_image(circle(), Policy()).reason == "TIFF"
    pages = [Image.fromarray(smooth(8, 8, seed)) for seed in range(300)]
    begun = time.perf_counter()
    stack = encode(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert prepare_image(stack, Policy()).pages == 300
    assert time.perf_counter() - begun < 5
