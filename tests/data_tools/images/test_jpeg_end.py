"""JPEGs that end before or behind their end marker: copied up to it, mended, or left out."""

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from data_tools.images.jpeg_end import CUT, ENDED
from data_tools.images.prepare_image import BadImage, prepare_image, sniff_jpeg
from data_tools.inspection.survey import survey
from data_tools.inspection.survey_text import lines
from data_tools.manifest import read_manifest, summary
from data_tools.open import open_store
from data_tools.policy import Policy
from data_tools.preparation.journal import SAMPLE, parse_record
from data_tools.prepare import prepare, prepare_shard
from tests.support.made_files.sample_images import encode, jpeg, smooth

Write = Callable[..., Path]
POLICIES = [Policy(), Policy(check="decode"), Policy(reencode="never")]


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def kinds() -> dict[str, bytes]:
    image = Image.fromarray(smooth(40, 56))
    photo = jpeg(40, 56)
    scan = photo.index(b"\xff\xda")
    thumbnail = segment(0xE1, b"Exif\0\0" + jpeg(8, 8)) + segment(0xFE, b"\xff\xd9" * 9)
    return {
        "baseline": encode(image, "JPEG"),
        "444": photo,
        "progressive": encode(image, "JPEG", progressive=True, quality=95),
        "restarts": encode(image, "JPEG", restart_marker_blocks=2),
        "grey": encode(image.convert("L"), "JPEG", progressive=True),
        "an end marker in a thumbnail": photo[:2] + thumbnail + photo[2:],
        "fill bytes": photo[:scan] + b"\xff" * 5 + photo[scan:-2] + b"\xff\xff\xff\xd9",
    }


def film() -> bytes:
    """The bytes that a phone puts behind a photograph: a box of MP4, noise, its own trailer."""
    noise = np.random.default_rng(0).bytes(3 << 20)
    return b"\0\0\0\x18ftypmp42" + bytes(12) + noise + b"\xff\xd9" + b"MotionPhoto_Data"


@pytest.mark.parametrize("kind", sorted(kinds()))
@pytest.mark.parametrize("policy", POLICIES)
def test_bytes_behind_the_end_are_dropped(kind: str, policy: Policy) -> None:
    data = kinds()[kind]
    assert sniff_jpeg(data, whole=True).end == len(data)
    for tail in (b"\0", film(), jpeg(seed=1), jpeg(seed=1)[:-9]):
        prepared = prepare_image(data + tail, policy)
        assert (prepared.data, prepared.reason, prepared.trimmed) == (data, "", CUT)
    assert prepare_image(data, policy).trimmed == ""


def test_a_second_picture_is_dropped_and_the_first_still_opens() -> None:
    first = Image.fromarray(smooth(40, 56))
    data = encode(first, "MPO", save_all=True, append_images=[Image.fromarray(smooth(40, 56, 9))])
    prepared = prepare_image(data, Policy())
    assert prepared.trimmed == CUT and data.startswith(prepared.data)
    want = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert (np.asarray(Image.open(io.BytesIO(prepared.data)).convert("RGB")) == want).all()
    assert (simplejpeg.decode_jpeg(prepared.data) == want).all()


def test_what_is_re_encoded_counts_as_that_alone() -> None:
    prepared = prepare_image(jpeg(64, 64) + film(), Policy(max_side=32))
    assert (prepared.reason, prepared.trimmed) == ("JPEG, resized", "")
    # A page holds it without the film.
    data = jpeg()
    assert prepare_image(data + film(), Policy(), max_bytes=len(data)).data == data


@pytest.mark.parametrize("kind", sorted(kinds()))
@pytest.mark.parametrize("policy", POLICIES)
def test_a_missing_end_marker_is_appended(kind: str, policy: Policy) -> None:
    data = kinds()[kind].replace(b"\xff\xff\xff\xd9", b"\xff\xd9")
    for cut in (data[:-2], data[:-1]):
        prepared = prepare_image(cut, policy)
        assert (prepared.data, prepared.reason, prepared.trimmed) == (data, "", ENDED)


@pytest.mark.parametrize("kind", sorted(kinds()))
def test_no_cut_loses_a_block(kind: str) -> None:
    """All ways to cut a file are tried; those are taken that leave every pixel as it was."""
    data = kinds()[kind]
    want = simplejpeg.decode_jpeg(data)
    taken = 0
    for end in range(3, len(data)):
        try:
            prepared = prepare_image(data[:end], Policy())
        except BadImage as error:
            assert str(error).startswith(("truncated JPEG", "damaged JPEG")), end
        else:
            taken += 1
            assert (simplejpeg.decode_jpeg(prepared.data, strict=True) == want).all(), end
    assert 2 <= taken <= 5


def test_a_progressive_jpeg_cut_between_scans_stays_truncated() -> None:
    data = encode(Image.fromarray(smooth(64, 64)), "JPEG", progressive=True, quality=95)
    scans = [at for at in range(len(data) - 1) if data[at : at + 2] == b"\xff\xda"]
    assert len(scans) > 5
    for before, start in zip(scans, scans[1:], strict=False):
        tables = data.rfind(b"\xff\xc4", before, start)  # those of the scan that is left out
        for end in {start, tables} - {-1}:
            with pytest.raises(BadImage, match="truncated JPEG"):
                prepare_image(data[:end], Policy())


def test_zeros_instead_of_the_end_stay_truncated() -> None:
    for kept in (len(jpeg(64, 64)) - 2, 700):
        with pytest.raises(BadImage, match="truncated JPEG"):
            prepare_image(jpeg(64, 64)[:kept] + bytes(512), Policy())


def test_a_size_above_the_limit_is_not_decoded_to_look_for_blocks() -> None:
    data = bytearray(jpeg(64, 64)[:-2])
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xff\xdc\xff\xdc"
    with pytest.raises(BadImage, match="^truncated JPEG$"):
        prepare_image(bytes(data), Policy())


def test_a_height_behind_the_first_scan_is_named() -> None:
    data = bytearray(jpeg(24, 32))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 7] = b"\0\0"
    height = segment(0xDC, b"\0\x18")
    with pytest.raises(BadImage, match=r"\(DNL\): not supported"):
        prepare_image(bytes(data[:-2]) + height + b"\xff\xd9", Policy())
    with pytest.raises(BadImage, match="damaged JPEG: no size"):
        prepare_image(bytes(data), Policy())
    # Beside a height in its place the segment is nothing new.
    assert sniff_jpeg(jpeg()[:-2] + height + b"\xff\xd9", whole=True).height == 24


def profile(*parts: tuple[int, int, bytes]) -> bytes:
    segments = (segment(0xE2, b"ICC_PROFILE\0" + bytes(p[:2]) + p[2]) for p in parts)
    return jpeg()[:2] + b"".join(segments) + jpeg()[2:]


def test_a_colour_profile_that_our_decoder_refuses_is_not_copied() -> None:
    body = bytes(40)
    for good in ([(1, 1, body)], [(1, 2, body), (2, 2, body)], [(2, 2, body), (1, 2, b"")]):
        data = profile(*good)
        simplejpeg.decode_jpeg(data)
        assert prepare_image(data, Policy()).data == data
    faults = ([(1, 2, body)], [(1, 1, body)] * 2, [(0, 1, body)], [(1, 2, body), (2, 3, body)],
              [(1, 1, b"")], [(0, 0, body)])  # fmt: skip
    for bad in faults:
        data = profile(*bad)
        with pytest.raises(ValueError):
            simplejpeg.decode_jpeg(data)
        prepared = prepare_image(data, Policy())
        assert prepared.reason == "unusual JPEG"
        assert simplejpeg.decode_jpeg(prepared.data).shape == (24, 32, 3)


def test_both_are_counted_by_themselves(write_tree: Write, tmp_path: Path) -> None:
    files = {f"a/{i}.jpg": jpeg(30, 40, i) + b"tail" * i for i in range(4)}
    files |= {f"b/{i}.jpg": jpeg(30, 40, 9 + i)[: -2 if i else None] for i in range(3)}
    source = write_tree(files)
    manifest = prepare(source, tmp_path / "out", policy=Policy(shard_size=0.003))
    assert (manifest.kept, manifest.reencoded) == (2, {})
    assert manifest.trimmed == {CUT: 3, ENDED: 2}
    assert f"copied, pixel for pixel: 5 ({CUT} 3, {ENDED} 2)" in "\n".join(summary(manifest))
    assert read_manifest(tmp_path / "out") == manifest
    store = open_store(tmp_path / "out")
    assert [store.encoded(i).tobytes() for i in range(4)] == [jpeg(30, 40, i) for i in range(4)]
    assert f"{CUT} 3" in "\n".join(lines(survey(tmp_path / "out")))
    # The same by shards.
    for shard in ((0, 2), (1, 2)):
        prepare_shard(source, tmp_path / "sharded", shard, policy=Policy(shard_size=0.003))
    assert prepare(source, tmp_path / "sharded", policy=Policy(shard_size=0.003)) == manifest


def test_a_record_without_these_counts_is_read() -> None:
    text = json.dumps({"quarantine": [], "reencoded": {"PNG": 1}, "beton_end": -1})
    old = io.BytesIO()
    np.savez(old, samples=np.zeros(1, SAMPLE), text=np.frombuffer(text.encode(), np.uint8))
    record = parse_record(0, old.getvalue())
    assert record.reencoded == {"PNG": 1} and not record.notes.trimmed
