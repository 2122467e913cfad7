"""Odd kinds of image files: converted right, or left out for a true reason; mutants of them all."""

import base64
import io
import struct

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from data_tools.images.prepare_image import BadImage, Prepared, prepare_image
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


def scaled(wide: np.ndarray) -> np.ndarray:
    return np.round(wide / 65535 * 255).astype(np.uint8)


def test_16_bit_grey_is_scaled_and_rounded() -> None:
    wide = wide_grey()
    image = Image.fromarray(wide)
    ppm = b"P5 %d %d 65535\n" % (WIDTH, HEIGHT) + wide.astype(">u2").tobytes()
    files = {"PNG": png(wide, 16, 0), "TIFF": encode(image, "TIFF"), "PPM": ppm}
    files["JPEG2000"] = encode(image, "JPEG2000", irreversible=False)
    for name, data in files.items():
        got, reason = lossless(data)
        assert reason == f"{name}, 16-bit"
        assert (got == scaled(wide)[..., None]).all(), name


def test_12_bit_tiff_is_scaled_by_its_own_range() -> None:
    values = np.linspace(0, 4095, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    bits = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(-1, 2), axis=1)[:, 4:]
    got, reason = lossless(tiff(values, 12, np.packbits(bits).tobytes()))
    assert reason == "TIFF, 16-bit"
    assert (got == np.round(values / 4095 * 255).astype(np.uint8)[..., None]).all()


def test_16_bit_colour_is_within_one_of_exact() -> None:
    wide = np.stack([wide_grey(), wide_grey()[::-1], wide_grey()[:, ::-1]], -1)
    alpha = np.dstack([wide, np.full((HEIGHT, WIDTH), 65535, np.uint16)])
    grey_alpha = alpha[..., 2:]
    for data, want in (
        (png(wide, 16, 2), wide), (png(alpha, 16, 6), wide), (png(grey_alpha, 16, 4), wide[..., 2:])
    ):  # fmt: skip
        got, reason = lossless(data)
        assert reason.startswith("PNG") and reason.endswith(", 16-bit")
        off = got.astype(int) - scaled(want)
        assert np.abs(off).max() <= 1 and abs(off.mean()) < 0.1


def test_the_transparent_colour_of_a_grey_png_of_any_depth() -> None:
    for depth in (1, 2, 4, 8, 16):
        most = (1 << depth) - 1
        values = np.resize(np.unique(np.linspace(0, most, 16).astype(np.uint16)), (4, 16))
        key = int(values[0, 1])
        got, reason = lossless(png(values, depth, 0, chunk(b"tRNS", struct.pack(">H", key))))
        want = np.where(values == key, 255, np.round(values / most * 255)).astype(np.uint8)
        assert (got == want[..., None]).all(), depth
        assert reason.startswith("PNG with alpha")


def test_the_transparent_colour_of_a_16_bit_colour_png_is_not_guessed() -> None:
    wide = np.zeros((2, 2, 3), np.uint16)
    key = chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3))
    assert image_rejection(png(wide, 16, 2, key)) == (
        "16-bit PNG with a transparent colour: not supported, convert it first"
    )


def test_modes_of_tiff() -> None:
    image = Image.fromarray(smooth(HEIGHT, WIDTH))
    rgba = Image.fromarray(np.dstack([smooth(HEIGHT, WIDTH), smooth(HEIGHT, WIDTH, 1, 1)]))
    for mode in ("L", "1", "P", "LAB", "YCbCr", "CMYK"):
        data = encode(image.convert(mode), "TIFF")
        got, reason = lossless(data)
        assert reason == "TIFF"
        assert (got == np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).all(), mode
    for mode in ("RGBA", "LA", "PA"):
        data = encode(rgba.convert(mode), "TIFF")
        got, reason = lossless(data)
        assert reason == "TIFF with alpha"
        opened = Image.open(io.BytesIO(data)).convert("RGBA")
        white = Image.new("RGBA", opened.size, "white")
        assert (got == np.asarray(Image.alpha_composite(white, opened).convert("RGB"))).all(), mode


def test_numbers_without_a_known_range() -> None:
    whole = np.arange(HEIGHT * WIDTH, dtype=np.int32).reshape(HEIGHT, WIDTH)
    signed = tiff(whole, 16, whole.astype("<i2").tobytes(), format=(339, 2))
    for data in (encode(Image.fromarray(whole), "TIFF"), signed):
        assert image_rejection(data).startswith("TIFF of signed or 32-bit numbers: ")
    real = encode(Image.fromarray(whole.astype(np.float32)), "TIFF")
    assert image_rejection(real).startswith("TIFF of float numbers: ")


def test_first_pages_and_other_formats() -> None:
    pages = [Image.fromarray(smooth(HEIGHT, WIDTH, seed)) for seed in range(3)]
    got, reason = lossless(encode(pages[0], "TIFF", save_all=True, append_images=pages[1:]))
    assert reason == "TIFF, first frame" and (got == np.asarray(pages[0])).all()
    for form in ("JPEG2000", "AVIF"):
        data = encode(pages[0], form)
        got, reason = lossless(data)
        assert reason == form
        assert (got == np.asarray(Image.open(io.BytesIO(data)))).all()


def test_arithmetic_coding_is_decoded() -> None:
    for policy in (Policy(quality=100), Policy(quality=100, check="decode")):
        prepared = prepare_image(ARITHMETIC, policy)
        assert prepared.reason == "arithmetic-coded JPEG"
        got = simplejpeg.decode_jpeg(prepared.data).astype(int)
        assert np.abs(got - np.asarray(Image.open(io.BytesIO(ARITHMETIC)))).mean() < 1


def test_jpegs_that_no_8_bit_decoder_reads() -> None:
    data = bytearray(jpeg())
    frame = data.index(b"\xff\xc0")
    data[frame + 4] = 12
    assert image_rejection(bytes(data)) == "12-bit JPEG: not supported, convert it to 8 bits first"
    data[frame + 4], data[frame + 1] = 8, 0xC3
    assert image_rejection(bytes(data)).startswith("JPEG of an unsupported process: SOF3")


def test_sampling_that_not_every_reader_knows_is_re_encoded() -> None:
    data = bytearray(encode(Image.fromarray(smooth(HEIGHT, WIDTH)), "JPEG", subsampling=0))
    frame = data.index(b"\xff\xc0")
    assert data[frame + 11 : frame + 19 : 3] == b"\x11\x11\x11"
    data[frame + 11] = 0x14  # chroma at a quarter of the height: a rare, but valid, file's header
    assert prepare_image(bytes(data), Policy()).reason == "unusual JPEG"


def test_headers_that_simplejpeg_refuses_are_written_anew() -> None:
    data = bytearray(jpeg())
    version = data.index(b"JFIF\0") + 5
    data[version] = 7
    adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\x09"  # and no JFIF
    for odd in (bytes(data), jpeg()[:2] + adobe + jpeg()[20:]):
        with pytest.raises(ValueError):
            simplejpeg.decode_jpeg(odd, strict=False)
        prepared = prepare_image(odd, Policy(quality=100))
        assert prepared.reason == "unusual JPEG"
        assert simplejpeg.decode_jpeg(prepared.data).shape == (24, 32, 3)


def test_damage_in_a_cmyk_jpeg_is_found_by_the_full_check() -> None:
    data = bytearray(encode(Image.fromarray(smooth(64, 64)).convert("CMYK"), "JPEG"))
    scan = data.index(b"\xff\xda")
    assert prepare_image(bytes(data), Policy(check="decode")).reason == "CMYK JPEG"
    data[scan + 60 : scan + 90] = bytes(30)
    assert image_rejection(bytes(data), Policy(check="decode")).startswith("damaged JPEG: ")


def test_grey_stays_grey() -> None:
    grey = smooth(HEIGHT, WIDTH, channels=1)[..., 0]
    image = Image.fromarray(grey)
    for data in (encode(image, "PNG"), encode(image, "TIFF"), grey, grey[..., None]):
        prepared = prepare_image(data, Policy(quality=100))
        assert simplejpeg.decode_jpeg_header(prepared.data)[2:] == ("Gray", "Gray")
        decoded = simplejpeg.decode_jpeg(prepared.data).astype(int)
        assert np.abs(decoded - grey[..., None]).mean() < 1
    prepared = prepare_image(encode(image, "JPEG"), Policy(reencode="always", max_side=20))
    assert simplejpeg.decode_jpeg_header(prepared.data) == (12, 20, "Gray", "Gray")


def test_colour_profiles_are_dropped_and_change_no_pixel() -> None:
    image = Image.fromarray(smooth(HEIGHT, WIDTH))
    profile = b"no profile, but nobody looks" * 9
    got, _ = lossless(encode(image, "PNG", icc_profile=profile))
    assert (got == np.asarray(image)).all()
    data = encode(image, "JPEG", icc_profile=profile)
    assert prepare_image(data, Policy()).data == data
    assert profile not in prepare_image(data, Policy(reencode="always")).data


def test_pixels_that_come_as_arrays() -> None:
    pixels = smooth(HEIGHT, WIDTH)
    encoded = prepare_image(pixels, Policy(quality=100))
    assert encoded[1:5] == (HEIGHT, WIDTH, False, "raw pixels")
    assert np.abs(simplejpeg.decode_jpeg(encoded.data).astype(int) - pixels).mean() < 1
    kept = prepare_image(pixels[:, ::-1], Policy(reencode="never"), raw=True)
    assert kept == Prepared(pixels[:, ::-1].tobytes(), HEIGHT, WIDTH, True, "")
    grey = prepare_image(pixels[..., 0], Policy(), raw=True)
    assert grey.data == np.repeat(pixels[..., :1], 3, 2).tobytes() and grey.reason == ""
    small = prepare_image(pixels, Policy(max_side=25), raw=True)
    want = Image.fromarray(pixels).resize((25, 15), Image.Resampling.HAMMING)
    assert small == Prepared(want.tobytes(), 15, 25, True, "raw pixels, resized")
    with pytest.raises(BadImage, match="would need re-encoding: raw pixels"):
        prepare_image(pixels, Policy(reencode="never"))
    for wrong in (pixels.astype(np.float32), pixels[..., :2], pixels[0, 0], pixels[:0]):
        with pytest.raises(BadImage):
            prepare_image(wrong, Policy(), raw=True)


def test_jpegs_stored_raw_are_upright_and_exact() -> None:
    data = jpeg(HEIGHT, WIDTH)
    got, reason = lossless(data)
    assert reason == "JPEG" and (got == np.asarray(Image.open(io.BytesIO(data)))).all()
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encode(Image.open(io.BytesIO(data)), "JPEG", exif=exif, quality=95)
    got, reason = lossless(turned)
    want = np.rot90(np.asarray(Image.open(io.BytesIO(turned))), -1)
    assert reason == "EXIF-rotated JPEG" and (got == want).all()
    never = Policy(reencode="never", max_side=20)
    assert image_rejection(data, never) == "would need re-encoding: JPEG, resized, stored raw"
    with pytest.raises(BadImage, match="larger than a page"):
        prepare_image(data, Policy(), HEIGHT * WIDTH * 3 - 1, raw=True)
