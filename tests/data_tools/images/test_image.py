"""One file's bytes to what is stored: pixels against Pillow's own, reasons word for word."""

import io
import struct

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps

from data_tools.images.prepare_image import BadImage, Prepared, prepare_image, sniff_jpeg
from data_tools.policy import Policy
from tests.support.made_files.sample_images import encode, jpeg, smooth

FINE = Policy(quality=100)


def pixels(prepared: Prepared) -> np.ndarray:
    decoded = simplejpeg.decode_jpeg(prepared.data)
    assert decoded.shape == (prepared.height, prepared.width, 3)
    return decoded


def assert_near(got: np.ndarray, want: Image.Image, mean: float = 1.0) -> None:
    difference = np.abs(got.astype(int) - np.asarray(want.convert("RGB"), int))
    assert difference.mean() < mean


def over_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def rejection(data: bytes, policy: Policy = FINE) -> str:
    with pytest.raises(BadImage) as caught:
        prepare_image(data, policy)
    return str(caught.value)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}])
def test_clean_jpegs_are_copied(options: dict) -> None:
    for image in (Image.fromarray(smooth(30, 50)), Image.fromarray(smooth(30, 50)).convert("L")):
        data = encode(image, "JPEG", **options)
        assert prepare_image(data, Policy()) == Prepared(data, 30, 50, False, "")
        assert prepare_image(data, Policy(check="decode")).data == data


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_other_formats_become_jpegs(form: str) -> None:
    image = Image.fromarray(smooth(30, 50))
    options = {"lossless": True} if form == "WEBP" else {}
    data = encode(image, form, **options)
    prepared = prepare_image(data, FINE)
    assert prepared.reason == form
    assert_near(pixels(prepared), Image.open(io.BytesIO(data)))


def test_transparency_is_laid_over_white() -> None:
    rgba = np.dstack([smooth(30, 50), smooth(30, 50, 1, 1)])
    grey = np.ascontiguousarray(rgba[..., 2:])
    palette = Image.fromarray(rgba[..., :3]).quantize(32)
    images = {
        "RGBA": (Image.fromarray(rgba), {}),
        "LA": (Image.fromarray(grey, "LA"), {}),
        "P": (palette, {"transparency": bytes(range(0, 256, 8))}),
        "RGB": (Image.new("RGB", (50, 30), (10, 20, 30)), {"transparency": (10, 20, 30)}),
    }
    for mode, (image, options) in images.items():
        data = encode(image, "PNG", **options)
        opened = Image.open(io.BytesIO(data))
        assert opened.mode == mode
        prepared = prepare_image(data, FINE)
        assert prepared.reason == "PNG with alpha"
        assert_near(pixels(prepared), over_white(opened))
    assert (pixels(prepared) > 250).all()  # the last was see-through everywhere


def test_of_an_animation_the_first_frame_is_kept_and_that_is_said() -> None:
    frames = [Image.fromarray(smooth(30, 50, seed)) for seed in range(3)]
    for form, options in (("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True})):
        data = encode(frames[0], form, save_all=True, append_images=frames[1:], **options)
        prepared = prepare_image(data, FINE)
        assert prepared.reason == f"{form}, first frame"
        assert_near(pixels(prepared), frames[0], 8 if form == "GIF" else 1)


def test_palette_and_bilevel() -> None:
    image = Image.fromarray(smooth(30, 50))
    for small in (image.quantize(64), image.convert("1")):
        assert_near(pixels(prepare_image(encode(small, "PNG"), FINE)), small, 2)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bits_are_scaled(form: str) -> None:
    wide = (smooth(30, 50, channels=1)[..., 0].astype(np.uint16) << 8) + 100
    prepared = prepare_image(encode(Image.fromarray(wide), form), FINE)
    assert prepared.reason == f"{form}, 16-bit"
    want = np.round(wide / 257.0).astype(np.uint8)
    assert_near(pixels(prepared), Image.fromarray(want))
    # The law could not hold by chance: Pillow's own conversion is far off.
    assert np.asarray(Image.fromarray(wide).convert("RGB")).min() == 255 or wide.max() < 256


def test_float_pixels_are_quarantined() -> None:
    data = encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
    assert rejection(data).startswith("TIFF of float numbers")


def test_cmyk_and_ycck_become_rgb() -> None:
    cmyk = Image.fromarray(smooth(30, 50)).convert("CMYK")
    data = encode(cmyk, "JPEG", quality=100)
    prepared = prepare_image(data, FINE)
    assert prepared.reason == "CMYK JPEG"
    assert_near(pixels(prepared), Image.open(io.BytesIO(data)))
    # Pillow writes no YCCK. The transform byte of the Adobe segment makes it one, for readers.
    at = data.index(b"Adobe") + 11
    ycck = data[:at] + b"\x02" + data[at + 1 :]
    prepared = prepare_image(ycck, FINE)
    assert prepared.reason == "YCCK JPEG"
    assert_near(pixels(prepared), Image.open(io.BytesIO(ycck)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_images_are_turned_upright(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "a camera"  # an entry before it
    data = encode(Image.fromarray(smooth(30, 50)), form, exif=exif, quality=95)
    prepared = prepare_image(data, FINE)
    if form == "JPEG":
        assert prepared.reason == ("" if orientation == 1 else "EXIF-rotated JPEG")
    assert_near(pixels(prepared), ImageOps.exif_transpose(Image.open(io.BytesIO(data))), 1.5)


def test_big_endian_exif_is_read() -> None:
    tiff = b"MM\0*" + struct.pack(">IHHHIHxxI", 8, 1, 0x0112, 3, 1, 6, 0)
    segment = b"Exif\0\0" + tiff
    data = b"\xff\xd8\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg(24, 32)[2:]
    assert sniff_jpeg(data).orientation == 6
    prepared = prepare_image(data, FINE)
    assert (prepared.height, prepared.width) == (32, 24)


def test_large_images_shrink_with_antialiasing() -> None:
    image = Image.fromarray(smooth(300, 500, seed=3))
    for form in ("PNG", "JPEG"):
        data = encode(image, form, quality=95)
        prepared = prepare_image(data, Policy(max_side=100, quality=100))
        assert prepared.reason == f"{form}, resized"
        assert (prepared.height, prepared.width) == (60, 100)
        want = Image.open(io.BytesIO(data)).resize((100, 60), Image.Resampling.HAMMING)
        assert_near(pixels(prepared), want)
    # One-pixel stripes average to grey where a filter is used, and alias where none is.
    stripes = np.zeros((300, 500, 3), np.uint8)
    stripes[:, ::2] = 255
    prepared = prepare_image(encode(Image.fromarray(stripes), "PNG"), Policy(max_side=100))
    assert np.abs(pixels(prepared)[5:-5, 5:-5].astype(int) - 127).max() < 12
    assert prepare_image(jpeg(1, 300), Policy(max_side=100)).height == 1


def test_an_image_at_the_limit_is_not_resized() -> None:
    data = jpeg(24, 32)
    assert prepare_image(data, Policy(max_side=32)).data == data
    assert prepare_image(data, Policy(max_side=31)).width == 31


def test_every_way_of_cutting_a_jpeg_is_found() -> None:
    data = encode(Image.fromarray(smooth(16, 16)), "JPEG", progressive=True)
    for end in range(3, len(data) - 2):
        assert "JPEG" in rejection(data[:end]), end
    assert rejection(data[:-3]) == "truncated JPEG"
    assert rejection(data[: len(data) // 2] + b"\0" * 99).startswith(("truncated", "damaged"))


def test_decoding_finds_what_headers_hide() -> None:
    data = bytearray(jpeg(64, 64))
    scan = data.index(b"\xff\xda")
    for at in range(scan + 40, len(data) - 40, 7):
        data[at] = 0
    assert prepare_image(bytes(data), Policy()).data == data
    assert rejection(bytes(data), Policy(check="decode")).startswith("damaged JPEG: ")


@pytest.mark.parametrize("form", ["PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_other_broken_images(form: str) -> None:
    data = encode(Image.fromarray(smooth(60, 60)), form)
    assert rejection(data[: len(data) // 2]).startswith("damaged ")


def test_what_is_no_image() -> None:
    names = {b"": "empty file", b"%PDF-1.4": "PDF, not an image"}
    for data in (b"", b"hello", b"%PDF-1.4", b"\0" * 1000):
        with pytest.raises(BadImage) as caught:
            prepare_image(data, FINE)
        assert str(caught.value) == names.get(data, "not an image")
        assert not caught.value.is_image
    assert rejection(b"\0\0\0\x18ftypheic" + b"\0" * 40).startswith("HEIC")


def test_limits_and_modes() -> None:
    png = encode(Image.fromarray(smooth(30, 50)), "PNG")
    few = Policy(max_pixels=1499)
    for data in (png, jpeg(30, 50)):
        assert rejection(data, few) == "more than 1499 pixels: 50 x 30"
    never = Policy(reencode="never")
    assert rejection(png, never) == "would need re-encoding: PNG"
    assert rejection(jpeg(30, 50), Policy(reencode="never", max_side=20)).endswith("JPEG, resized")
    assert prepare_image(jpeg(), never).reason == ""
    assert prepare_image(jpeg(), Policy(reencode="always")).reason == "JPEG"


def test_an_image_larger_than_a_page() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = simplejpeg.encode_jpeg(noise, 100)
    prepared = prepare_image(data, Policy(quality=20), max_bytes=len(data) - 1)
    assert prepared.reason == "JPEG larger than a page" and len(prepared.data) < len(data)
    with pytest.raises(BadImage, match="--max-side"):
        prepare_image(data, Policy(quality=100), max_bytes=1000)
