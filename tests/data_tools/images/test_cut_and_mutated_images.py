"""Images that are too large, cut off or mutated: stored right, or left out with a reason."""

import base64
import struct
from functools import cache

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_tools.images.codec import quiet_pillow
from data_tools.images.prepare_image import BadImage, prepare_image
from data_tools.policy import Policy
from tests.support.made_files.handmade_images import chunk, png, tiff
from tests.support.made_files.sample_images import encode, jpeg, smooth
from tests.support.prepared_images import HEIGHT, WIDTH, image_rejection, lossless, wide_grey

# 16 x 24 pixels of sample_images.smooth, quality 75, 4:4:4, by libjpeg-turbo (TJ_ARITHMETIC=1).
ARITHMETIC = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4nICIsIxwc"
    "KDcpLDAxNDQ0Hyc5PTgyPC4zNDL/2wBDAQkJCQwLDBgNDRgyIRwhMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIy"
    "MjIyMjIyMjIyMjIyMjIyMjIyMjL/yQARCAAQABgDAREAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwD/AGih"
    "3buGI98x+RfX7cv/AEpeOYzGHdSEFvoY4FI0xLhsBQcEFfUbEbTAoLRNBCjZmgzYUW5rm/8AsvH0Jj0o+BX+3y0KOiSW"
    "gmui1sziFI8MplLpU/kx6lD8Pp91oFWZuwMM/9k="
)


def test_sides() -> None:
    data = jpeg(HEIGHT, WIDTH)
    assert prepare_image(data, Policy(short_side=HEIGHT, min_side=HEIGHT)).data == data
    shrunk = prepare_image(data, Policy(short_side=15))
    assert shrunk[1:5] == (15, 25, False, "JPEG, resized")
    assert prepare_image(data, Policy(short_side=15, max_side=20)).width == 20
    assert prepare_image(data, Policy(short_side=6, max_side=20)).width == 10
    pixels = smooth(HEIGHT, WIDTH)
    for image in (data, pixels, encode(Image.fromarray(pixels), "PNG")):
        with pytest.raises(BadImage, match="^a side of less than 31 pixels: 50 x 30$"):
            prepare_image(image, Policy(min_side=31))


def test_bombs_are_left_out_before_they_are_decoded() -> None:
    small = Policy(max_pixels=1000)
    for form in ("PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF", "JPEG"):
        data = encode(Image.fromarray(smooth(HEIGHT, WIDTH)), form)
        assert image_rejection(data, small) == "more than 1000 pixels: 50 x 30", form
    huge = png(np.zeros((1, 1)), 8, 0)
    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    huge = huge[:8] + chunk(b"IHDR", head) + huge[33:]
    assert image_rejection(huge).startswith("more than")
    tile = tiff(np.zeros((2, 2)), 8, b"\0" * 4, w=(322, 1 << 15), l=(323, 1 << 15), o=(324, 8))
    assert image_rejection(tile).startswith("more than")


def whole_and_cut() -> dict[str, bytes]:
    image = Image.fromarray(smooth(60, 80))
    forms = ("PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF")
    return {form: encode(image, form) for form in forms}


@pytest.mark.parametrize("form", sorted(whole_and_cut()))
def test_cut_files_are_left_out_or_have_lost_nothing(form: str) -> None:
    data = whole_and_cut()[form]
    want, _ = lossless(data)
    for end in np.linspace(1, len(data) - 1, 40).astype(int).tolist():
        try:
            got, _ = lossless(data[:end])
        except BadImage as error:
            assert str(error).startswith(("damaged ", "not an image")), end
            assert end < 16 or str(error).startswith("damaged "), (end, str(error))
        else:
            assert (got == want).all(), end


@cache
def seeds() -> list[bytes]:
    image = Image.fromarray(smooth(20, 24))
    rgba = Image.fromarray(smooth(20, 24, channels=4))
    many = {"save_all": True, "append_images": [Image.fromarray(smooth(20, 24, 1))]}
    exif = Image.Exif()
    exif[0x0112] = 5
    files = [encode(image, form, exif=exif) for form in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")]
    files += [encode(image, form) for form in ("BMP", "GIF", "PPM", "JPEG2000")]
    files += [encode(image, form, **many) for form in ("GIF", "PNG", "WEBP", "TIFF", "AVIF")]
    files += [encode(rgba, form) for form in ("PNG", "WEBP", "TIFF", "GIF", "JPEG2000", "AVIF")]
    files += [encode(image.quantize(9), form) for form in ("PNG", "TIFF", "BMP")]
    files += [encode(image, "TIFF", compression=name) for name in ("tiff_lzw", "jpeg", "packbits")]
    files += [encode(image, "JPEG", progressive=True), encode(image.convert("CMYK"), "JPEG")]
    files += [png(wide_grey(), 16, 0, chunk(b"tRNS", b"\1\2")), ARITHMETIC]
    files += [encode(image.convert("L"), "JPEG"), tiff(wide_grey(), 16, wide_grey().tobytes())]
    return files


@settings(max_examples=1500, deadline=5000, derandomize=True, database=None)
@given(
    st.integers(0, 30),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(-12, 255)), min_size=1, max_size=8),
    st.sampled_from(("structure", "decode")),
    st.booleans(),
    st.sampled_from((None, 7)),
)
def test_mutants(
    seed: int, changes: list[tuple[int, int]], check: str, raw: bool, side: int | None
) -> None:
    """Any file gives an image of the size in its header, or BadImage with a reason."""
    data = bytearray(seeds()[seed % len(seeds())])
    for at, value in changes:  # below 0: cut out that number of bytes; -12: the rest
        at %= max(len(data), 1)
        if value >= 0:
            data[at : at + 1] = bytes([value])
        else:
            del data[at : at - value if value > -12 else None]
    policy = Policy(check=check, max_side=side, max_pixels=1 << 20)  # type: ignore[arg-type]
    try:
        with quiet_pillow():
            prepared = prepare_image(bytes(data), policy, raw=raw)
    except BadImage as error:
        assert str(error)
        return
    assert prepared.height * prepared.width <= 1 << 20
    assert side is None or max(prepared.height, prepared.width) <= side
    if raw:
        assert len(prepared.data) == prepared.height * prepared.width * 3
    else:
        decoded = simplejpeg.decode_jpeg(prepared.data, strict=False)
        assert decoded.shape[:2] == prepared[1:3]
