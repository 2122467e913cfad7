"""A file that can't be stored is named: damaged, valid but not supported, or no image."""

import gzip
import io
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.support.made_files.handmade_images import chunk, png
from tests.support.made_files.sample_images import encode, smooth
from tests.support.prepared_images import HEIGHT, WIDTH, lossless, rejection

BEHIND = ": not supported, convert it first"


def pixels() -> Image.Image:
    return Image.fromarray(smooth(HEIGHT, WIDTH))


def archive(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("a", "b")
    else:
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("a"))
    return buffer.getvalue()


def box(brand: bytes, *compatible: bytes) -> bytes:
    body = b"ftyp" + brand + bytes(4) + b"".join(compatible)
    return struct.pack(">I", len(body) + 4) + body + bytes(64)


def floats(order: str, image: np.ndarray) -> bytes:
    """A SPIDER file (of one slice)."""
    height, width = image.shape
    record = 4 * width
    records = -(-1024 // record)
    values = np.zeros(records * record // 4)
    values[[0, 1, 4, 11, 12, 21, 22]] = 1, height, 1, width, records, records * record, record
    return np.concatenate([values, image.ravel()]).astype(order + "f4").tobytes()


TGA_1 = struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, WIDTH, HEIGHT, 24, 32)
NIFTI = struct.pack("<i", 348) + bytes(340) + b"n+1\0" + bytes(64)
IMAGES = {
    "JPEG XL": [b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), b"\xff\x0a" + bytes(range(40))],
    "DICOM": [bytes(128) + b"DICM" + bytes(64), b"\x08\0\x05\0CS\x0a\0ISO_IR 100" + bytes(64)],
    "TGA": [encode(pixels(), "TGA"), encode(pixels(), "TGA", compression="tga_rle"),
            TGA_1 + bytes(WIDTH * HEIGHT * 3)],
    "DDS": [encode(pixels(), "DDS")],
    "ICO": [encode(pixels(), "ICO", sizes=[(16, 16)])],
    "PSD": [b"8BPS\0\1" + bytes(40), b"8BPS\0\2" + bytes(40)],
    "QOI": [b"qoif" + struct.pack(">II", 4, 4) + b"\3\0" + bytes(40)],
    "SGI": [encode(pixels(), "SGI")],
    "HDR": [b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 4 +X 4\n", b"#?RGBE\n\n"],
    "OpenEXR": [b"\x76\x2f\x31\x01" + bytes(40)],
    "FITS": [b"SIMPLE  =                    T" + bytes(100)],
    "NIfTI": [NIFTI, gzip.compress(NIFTI)],
    "SVG": [b'<svg xmlns="http://www.w3.org/2000/svg"/>', gzip.compress(b"<svg a='b'>"),
            b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- a --><!DOCTYPE svg>\n<svg:svg a="b">'],
    "EPS": [b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\xc5\xd0\xd3\xc6" + bytes(40)],
    "HEIC": [box(b"heic"), box(b"mif1", b"mif1", b"heic")],
    "camera RAW (CR3)": [box(b"crx ")],
    "camera RAW (RAF)": [b"FUJIFILMCCD-RAW 0201" + bytes(40)],
    "camera RAW (ORF)": [b"IIRO\x08\0\0\0" + bytes(40)],
    "camera RAW (RW2)": [b"IIU\0\x18\0\0\0" + bytes(40)],
    "JPEG XR": [b"II\xbc\x01" + bytes(40)],
    "JPEG-LS": [b"\xff\xd8\xff\xf7\0\x0b\x08" + bytes(40)],
    "PCX": [encode(pixels(), "PCX")],
    "DIB": [encode(pixels(), "DIB")],
    "ICNS": [b"icns" + bytes(40)],
    "IM": [b"Image type: RGB image\r\nImage size (x*y): 4*4\r\n" + bytes(512)],
    "XBM": [encode(pixels().convert("1"), "XBM")],
    "MSP": [encode(pixels().convert("1"), "MSP")],
    "SPIDER": [floats(order, np.ones((40, 40))) for order in "<>"],
    "PhotoCD": [bytes(2048) + b"PCD_IPI" + bytes(100)],
    "FLI animation": [b"\0\x10\0\0\x11\xaf\1\0" + bytes(120)],
    "PAM": [b"P7\nWIDTH 4\nHEIGHT 4\nDEPTH 4\nMAXVAL 255\nENDHDR\n" + bytes(64)],
    "PFM": [b"PF\n4 4\n-1.0\n" + bytes(192)],
    "PNG in Apple's own variant (CgBI)": [
        b"\x89PNG\r\n\x1a\n" + chunk(b"CgBI", bytes(4)) + png(np.zeros((4, 4)), 8, 0)[8:]
    ],
}  # fmt: skip
OTHERS = {
    "PDF": [b"%PDF-1.7\n"],
    "HDF5 file": [b"\x89HDF\r\n\x1a\n" + bytes(40), bytes(512) + b"\x89HDF\r\n\x1a\n" + bytes(9)],
    "MP4 video": [box(b"isom"), box(b"mp42"), box(b"mif1", b"mp41")[:8] + box(b"avc1")[8:]],
    "QuickTime video": [box(b"qt  "), b"\0\0\1\0moov" + bytes(40)],
    "AVI video": [b"RIFF\0\0\1\0AVI LIST" + bytes(40)],
    "Matroska or WebM video": [b"\x1a\x45\xdf\xa3" + bytes(40)],
    "HTML page": [b"<!DOCTYPE html><html>404</html>", b"\n <HTML>\n<head>", b"<!-- a --><html>",
                  b"<!doctype HTML PUBLIC 'x'>\n<title>"],
    "XML file": [b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>'],
    "zip archive": [archive("zip")],
    "tar archive": [archive("tar")],
    "gzip-compressed file": [gzip.compress(b"hello" * 99)],
    "NumPy array": [b"\x93NUMPY\1\0" + bytes(40)],
    "macOS resource file": [b"\0\5\x16\7" + bytes(40)],
}  # fmt: skip


@pytest.mark.parametrize("name", IMAGES)
def test_images_that_are_not_read_are_named(name: str) -> None:
    for data in IMAGES[name]:
        assert rejection(data) == (name + BEHIND, True)


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_image_is_named(name: str) -> None:
    for data in OTHERS[name]:
        assert rejection(data) == (f"{name}, not an image", False)


def test_a_git_lfs_pointer_says_what_to_do() -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
    assert rejection(pointer) == ("git-lfs pointer, not an image: run `git lfs pull`", False)


def test_bytes_without_a_kind_stay_unnamed() -> None:
    rng = np.random.default_rng(0)
    named = 0
    for _ in range(300):
        data = rng.bytes(rng.integers(1, 400))
        reason, is_image = rejection(data)
        named += reason != "not an image"
        assert is_image == (reason != "not an image")
    assert named <= 3
    # Short signatures, with what can't be behind them.
    for data in (b"\x01\xda\7\7" + bytes(99), b"\xff\x0a", b"\0\0\0\3mdat",
                 b"\x08\0\5\0" + bytes(99), b"\0\x10\0\0\x11\xaf\1\0" + b"\7" * 99):  # fmt: skip
        assert rejection(data) == ("not an image", False)
    for data in (b"hello\n", bytes(4096), b"\xff" * 4096, b"\0\0\1\0" + bytes(60)):
        assert rejection(data) == ("not an image", False)


# TIFF


# BMP, JPEG 2000, PNG


def bmp(bits: int, code: int, body: bytes, width: int = WIDTH, colours: int = 0) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, HEIGHT, 1, bits, code, 0, 1, 1, colours, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54) + head + body


def test_bmps_that_are_valid_and_not_read() -> None:
    fields = struct.pack("<III", 0x3FF00000, 0x000FFC00, 0x000003FF)
    deep = bmp(32, 3, fields + bytes(4 * WIDTH * HEIGHT))
    assert rejection(deep)[0] == "BMP of 32 bits, bit fields" + BEHIND
    assert rejection(deep[:-99])[0].startswith("damaged BMP: ")
    assert rejection(bmp(0, 5, encode(pixels(), "PNG")))[0].startswith("BMP of 0 bits, a PNG")
    assert rejection(bmp(2, 0, bytes(9999)))[0] == "BMP of 2 bits, uncompressed" + BEHIND
    assert rejection(bmp(30000, 0, bytes(9999)))[0].startswith("damaged BMP: ")
    assert rejection(bmp(24, 0, bytes(9999), width=-5))[0] == "damaged BMP: no size in its header"


def test_run_length_codes_of_a_bmp_stay_within_it() -> None:
    palette = bytes(range(256)) * 4
    rows = [bytes([WIDTH, row, 0, 0]) for row in range(HEIGHT)]
    whole = bmp(8, 1, palette + b"".join(rows) + b"\0\1")
    whole = whole[:10] + struct.pack("<I", 54 + 1024) + whole[14:]
    assert lossless(whole)[0].shape == (HEIGHT, WIDTH, 3)
    beyond = whole[:-2] + bytes([5, 5, 0, 1])
    assert rejection(beyond)[0] == "damaged BMP: its run-length codes lead out of the image"


def test_jpeg_2000_of_five_bands() -> None:
    data = bytearray(encode(pixels(), "JPEG2000", no_jp2=True))
    at = data.index(b"\xff\x4f\xff\x51") + 40
    assert data[at : at + 2] == b"\0\3"
    data[at : at + 2] = b"\0\5"
    data[at + 2 : at + 2] = data[at + 2 : at + 8]
    assert rejection(bytes(data))[0] == "JPEG 2000 of 5 bands" + BEHIND
    assert rejection(encode(pixels(), "JPEG2000")[:300])[0].startswith("damaged JPEG2000: ")


def test_an_avif_by_its_compatible_brand_is_one() -> None:
    data = encode(pixels(), "AVIF")
    assert data[8:12] == b"avif"
    general = data[:8] + b"mif1" + data[12:]
    assert rejection(general[:200])[0].startswith("damaged AVIF: ")


def test_large_text_in_a_png_is_not_read() -> None:
    image = np.arange(16).reshape(4, 4)
    deflated = zlib.compress(bytes(1 << 24))
    plain, _ = lossless(png(image, 8, 0))
    for text in (
        chunk(b"zTXt", b"a\0\0" + deflated), chunk(b"iTXt", b"a\0\1\0\0\0" + deflated),
        chunk(b"iCCP", b"a\0\0" + deflated),
    ):  # fmt: skip
        for data in (png(image, 8, 0, text), png(image, 8, 0)[:-12] + text + chunk(b"IEND", b"")):
            got, reason = lossless(data)
            assert (got == plain).all() and reason == "PNG"
