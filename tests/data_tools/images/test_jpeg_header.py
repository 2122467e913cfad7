"""The marker walk: every cut is found, thumbnails and tails don't fool it, bombs don't pass."""

import io
import random
import struct
import time

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from data_tools.images.codec import check_jpeg
from data_tools.images.prepare_image import BadImage, prepare_image, sniff_jpeg
from data_tools.policy import Policy
from tests.support.made_files.sample_images import encode, jpeg, smooth


def kinds(height: int = 40, width: int = 56) -> dict[str, bytes]:
    image = Image.fromarray(smooth(height, width))
    return {
        "baseline": encode(image, "JPEG"),
        "progressive": encode(image, "JPEG", progressive=True, quality=95),
        "restarts": encode(image, "JPEG", restart_marker_blocks=2),
        "grey": encode(image.convert("L"), "JPEG", progressive=True),
        "444": encode(image, "JPEG", subsampling=0),
    }


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def rejection(data: bytes) -> str:
    with pytest.raises(BadImage) as caught:
        sniff_jpeg(data, whole=True)
    return str(caught.value)


@pytest.mark.parametrize("kind", sorted(kinds()))
def test_every_cut_is_found(kind: str) -> None:
    data = kinds()[kind]
    assert sniff_jpeg(data, whole=True)[:2] == (40, 56)
    for end in range(3, len(data)):
        assert rejection(data[:end]) == "truncated JPEG", end


def test_a_cut_image_is_not_whole_for_the_end_of_its_thumbnail() -> None:
    exif = segment(0xE1, b"Exif\0\0" + jpeg(8, 8))
    data = jpeg(64, 64)
    whole = data[:2] + exif + data[2:]
    assert sniff_jpeg(whole, whole=True)[:2] == (64, 64)
    assert rejection(whole[:-2]) == "truncated JPEG"
    assert rejection(whole[:-2] + b"\0" * 512) == "truncated JPEG"
    # Cut, with a whole image behind it: a broken container's work.
    behind = rejection(data[:-40] + jpeg())
    assert behind == "truncated JPEG: another image begins before its end"


def test_the_headers_alone_are_cheap_to_read_and_need_no_more() -> None:
    data = kinds()["progressive"]
    head = data[: data.index(b"\xff\xda") + 20]
    walked = sniff_jpeg(data, whole=True)
    assert walked.end == len(data)
    assert sniff_jpeg(head) == sniff_jpeg(memoryview(head)) == walked._replace(end=0)


def test_a_walk_costs_less_than_100_us_per_100_kb() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (220, 220, 3), np.uint8)
    data = simplejpeg.encode_jpeg(noise, 92, "RGB", "444", False)
    times = []
    for _ in range(20):
        begun = time.perf_counter()
        sniff_jpeg(data, whole=True)
        times.append(time.perf_counter() - begun)
    assert min(times) < 100e-6 * len(data) / 100_000 * 4  # slow machines too


def test_fill_bytes_and_unusual_segments() -> None:
    data = kinds()["baseline"]
    scan = data.index(b"\xff\xda")
    extra = b"\xff" * 5 + segment(0xFE, b"a comment") + segment(0xE2, b"\xff\xd9" * 9)
    assert sniff_jpeg(data[:scan] + extra + data[scan:], whole=True).width == 56
    assert sniff_jpeg(data[:-2] + b"\xff\xff\xff\xd9", whole=True).width == 56


def test_frames_and_scans_that_make_no_sense() -> None:
    data = kinds()["baseline"]
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    length = 2 + int.from_bytes(data[frame + 2 : frame + 4], "big")
    no_frame = data[:frame] + data[frame + length :]
    twice = data[:frame] + 2 * data[frame : frame + length] + data[frame + length :]
    rows = bytearray(data)
    rows[frame + 5 : frame + 7] = b"\0\0"
    more = bytearray(data)
    more[frame + 9] = 4
    other = bytearray(data)
    other[scan + 5] = 77  # a component that the frame doesn't have
    expected = {
        bytes(no_frame): "a scan before the frame header",
        bytes(twice): "two frame headers",
        bytes(rows): "no size in its header",
        bytes(more): "a frame header of the wrong length",
        bytes(other): "a scan header that does not fit what came before",
        data[:scan] + b"\xff\xd9": "it ends before its image",
        data[:2] + b"\xff\xd9" * 2: "it ends before its image",
        data[:scan] + segment(0x02, b"") + data[scan:]: "an unknown marker",
        data[:scan] + b"\xff\xe0\0\1" + data[scan:]: "a segment of impossible length",
        data[:scan] + b"\0" + data[scan:]: "no marker where one must be",
    }
    for broken, reason in expected.items():
        assert rejection(broken) == f"damaged JPEG: {reason}"


def test_a_colour_image_without_its_colours_is_not_whole() -> None:
    data = encode(Image.fromarray(smooth(40, 56)), "JPEG", progressive=True)
    first = data.index(b"\xff\xda")
    tables = data.index(b"\xff\xc4", first)  # behind the first scan, which has all components
    third = data.index(b"\xff\xda", data.index(b"\xff\xda", tables) + 2)
    grey = data[:first] + data[tables:third]
    assert rejection(grey + b"\xff\xd9") == "damaged JPEG: it ends before its image"


def test_tables_that_no_decoder_takes() -> None:
    data = kinds()["baseline"]
    table, quantised = data.index(b"\xff\xc4"), data.index(b"\xff\xdb")
    for at, value in ((table + 4, 0x40), (table + 5, 2), (table + 25, 99)):
        broken = data[:at] + bytes([value]) + data[at + 1 :]
        assert rejection(broken) == "damaged JPEG: an impossible Huffman table"
        with pytest.raises(ValueError):
            simplejpeg.decode_jpeg(broken, strict=False)
    crowded = data[: table + 5] + b"\3\0\3" + data[table + 8 :]  # three codes of one bit
    assert rejection(crowded) == "damaged JPEG: an impossible Huffman table"
    broken = data[: quantised + 4] + b"\x44" + data[quantised + 5 :]
    assert rejection(broken) == "damaged JPEG: an impossible quantisation table"
    broken = data[: quantised + 4] + b"\3" + data[quantised + 5 :]
    assert rejection(broken) == "damaged JPEG: a quantisation table is missing"


def test_huffman_tables_may_be_missing_only_where_decoders_know_them() -> None:
    for kind, decodable in (("baseline", True), ("progressive", False)):
        data = kinds()[kind]
        while b"\xff\xc4" in data:
            table = data.index(b"\xff\xc4")
            length = 2 + int.from_bytes(data[table + 2 : table + 4], "big")
            data = data[:table] + data[table + length :]
        if decodable:
            assert sniff_jpeg(data, whole=True).width == 56
            simplejpeg.decode_jpeg(data, strict=False)
            continue
        reason = "damaged JPEG: a scan header that does not fit what came before"
        assert rejection(data) == reason
        with pytest.raises(ValueError, match="not defined"):
            simplejpeg.decode_jpeg(data, strict=False)


def test_a_bomb_of_scans() -> None:
    data = kinds()["progressive"]
    last = data.rindex(b"\xff\xda")
    bomb = data[:last] + data[last:-2] * 200 + b"\xff\xd9"
    assert rejection(bomb) == "JPEG of more than 100 scans"


def test_the_scaled_decode_finds_all_that_a_full_one_finds() -> None:
    rng = random.Random(5)
    samples = list(kinds().values())
    flagged = 0
    for _ in range(1500):
        data = bytearray(rng.choice(samples))
        for _ in range(rng.choice((1, 1, 2, 6))):
            data[rng.randrange(20, len(data))] ^= 1 << rng.randrange(8)
        try:
            simplejpeg.decode_jpeg(bytes(data), strict=True)
            check_jpeg(bytes(data))
        except ValueError:
            flagged += 1
            with pytest.raises(BadImage):
                check_jpeg(bytes(data))
    assert flagged > 300


def test_what_passes_the_full_check_is_decoded_without_a_murmur() -> None:
    policy = Policy(check="decode")
    for data in kinds().values():
        assert prepare_image(data, policy).data == data
        with Image.open(io.BytesIO(data)) as image:
            image.load()
