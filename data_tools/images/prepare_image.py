"""Turns one image file, or its pixels, into the bytes to store, by the policy.

A clean JPEG is copied from its start marker to its end marker, without being decoded. Every other
image is decoded, turned upright, and written as a JPEG or as plain RGB. Colour profiles (ICC) are
not applied, since no training loader applies them: a copied JPEG keeps its profile, a re-encoded
image has none. If a file has several frames or pages, the first is stored, and the reason says so.
Large images are decoded in turns, within memory_budget.DECODING.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from data_tools.images import codec, jpeg_segments
from data_tools.images.bad_image import BadImage
from data_tools.images.codec import FORMATS, JPEG_MAX_SIDE, Decoded
from data_tools.images.jpeg_end import ENDED, whole_jpeg
from data_tools.images.jpeg_header import JpegHeader, sniff_jpeg
from data_tools.images.magic import JPEG_START
from data_tools.images.memory_budget import DECODING
from data_tools.images.predicted_memory import array_bytes, image_bytes, jpeg_bytes
from data_tools.policy import Policy

__all__ = ["FORMATS", "BadImage", "JpegHeader", "Prepared", "prepare_image", "sniff_jpeg"]

COPIED_FRAMES = (jpeg_segments.BASELINE, jpeg_segments.EXTENDED, jpeg_segments.PROGRESSIVE)
ROTATED = "EXIF-rotated JPEG"
ARITHMETIC_FRAMES = (jpeg_segments.ARITHMETIC, jpeg_segments.ARITHMETIC_PROGRESSIVE)
# Chroma at full, half and quarter resolution as TurboJPEG knows it: FFCV's reader takes no other.
COPIED_SAMPLING = {
    bytes.fromhex(factors)
    for factors in ("111111", "211111", "121111", "221111", "411111", "221212", "222121")
}


class Prepared(NamedTuple):
    """An image that is ready to be stored."""

    data: bytes
    """A JPEG, RGB or grey; or height x width x 3 bytes of RGB."""
    height: int
    width: int
    raw: bool
    reason: str
    """The reason for re-encoding it; "" if it was copied."""
    trimmed: str = ""
    """The difference of a copied JPEG from its source (see jpeg_end); "" if there is none."""
    highest: int = -1
    """The greatest 16-bit value (see codec.Decoded); -1 if the image does not have 16 bits."""
    pages: int = 1
    """Number of pages of the same size in the file. The first is stored."""


def prepare_image(
    data: bytes | np.ndarray, policy: Policy, max_bytes: int = 1 << 32, raw: bool = False
) -> Prepared:
    """Returns an image in its stored form.

    data: a file's bytes, or pixels: uint8 [H, W, 3], or [H, W] (grey). raw: store plain RGB, not a
    JPEG. max_bytes: the most that it may take, a page of a beton.

    Raises BadImage, with the reason, if it can't be stored, and NotEnoughMemory if a valid image
    does not fit into memory.
    """
    if isinstance(data, np.ndarray):
        return prepare_pixels(data, policy, max_bytes, raw)
    if not data:
        raise BadImage("empty file", is_image=False)
    if data[:3] == JPEG_START:
        return prepare_jpeg(data, policy, max_bytes, raw)
    with codec.open_image(data, policy.max_pixels) as image:
        kind, pages = codec.describe(image, data), codec.pages_of(image)
        size = planned_size(*image.size, policy, kind)
        resized = size != image.size
        reason = reason_for(kind, resized, raw)
        refuse_change(reason, policy, resized or not raw)
        source_size = image.size
        try:
            with DECODING.take(image_bytes(image, size)):
                prepared = encoded(codec.decode(image, size), policy, max_bytes, raw, reason)
        except MemoryError:
            raise codec.not_enough_memory(*source_size) from None
        return prepared._replace(pages=pages)


def prepare_jpeg(data: bytes, policy: Policy, max_bytes: int, raw: bool) -> Prepared:
    """prepare_image for a JPEG's bytes."""
    data, header, trimmed = whole_jpeg(data, policy.max_pixels)
    if header.precision != 8:
        raise BadImage(f"{header.precision}-bit JPEG: not supported, convert it to 8 bits first")
    if header.frame not in COPIED_FRAMES + ARITHMETIC_FRAMES:
        raise BadImage(f"JPEG of an unsupported process: SOF{header.frame - 0xC0}, "
                       "lossless or hierarchical; convert it first")  # fmt: skip
    source_size = header.width, header.height
    size = planned_size(*source_size, policy, "JPEG")
    resized = size != source_size
    kind = unusual(header) or (ROTATED if header.orientation != 1 else "")
    copied = not (kind or raw or resized or policy.reencode == "always" or len(data) > max_bytes)
    strict = policy.check == "decode"
    if copied:
        if strict and trimmed != ENDED:  # otherwise its blocks were decoded already
            with DECODING.take(jpeg_bytes(header, (1, 1))):
                codec.check_jpeg(data)
        return Prepared(data, header.height, header.width, False, "", trimmed)
    larger = " larger than a page" if not (kind or raw or resized) and len(data) > max_bytes else ""
    reason = reason_for(kind or "JPEG" + larger, resized, raw)
    refuse_change(reason, policy, resized or not raw)
    try:
        with DECODING.take(jpeg_bytes(header, size)):
            pixels = decoded_jpeg(data, header, size, strict)
            return encoded(Decoded(pixels), policy, max_bytes, raw, reason)
    except MemoryError:
        raise codec.not_enough_memory(*source_size) from None


def decoded_jpeg(
    data: bytes, header: JpegHeader, size: tuple[int, int], strict: bool
) -> np.ndarray:
    """Upright pixels, uint8, at size (width, height, before rotation)."""
    if not unusual(header):
        return codec.decode_jpeg(data, size, header, strict)
    if strict and header.frame in COPIED_FRAMES:
        codec.check_jpeg(data, "CMYK" if header.components == 4 else "RGB")
    with codec.open_image(data) as image:
        return codec.decode(image, size, header.orientation).pixels


def prepare_pixels(pixels: np.ndarray, policy: Policy, max_bytes: int, raw: bool) -> Prepared:
    """prepare_image for pixels."""
    grey = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 1)
    if pixels.dtype != np.uint8 or not (grey or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise BadImage(f"pixels that are no image: {pixels.dtype} {pixels.shape}", is_image=False)
    if not pixels.size:
        raise BadImage("an image without pixels", is_image=False)
    height, width = pixels.shape[:2]
    size = planned_size(width, height, policy, "raw pixels")
    resized = size != (width, height)
    reason = reason_for("raw pixels", resized, False) if resized or not raw else ""
    refuse_change(reason, policy, bool(reason))
    with DECODING.take(array_bytes(pixels)):
        if resized:
            pixels = codec.shrink(pixels, size)
        return encoded(Decoded(pixels), policy, max_bytes, raw, reason)


def unusual(header: JpegHeader) -> str:
    """The reason that an intact 8-bit JPEG is never copied by any policy; "" if there is none."""
    if header.components == 4:
        return "YCCK JPEG" if header.adobe_transform == 2 else "CMYK JPEG"
    if header.frame in ARITHMETIC_FRAMES:
        return "arithmetic-coded JPEG"
    # simplejpeg turns libjpeg's warning about any other value into an error.
    usual = header.jfif in (1, 2) and header.adobe_transform in (-1, 0, 1)
    known = header.components == 1 or header.sampling in COPIED_SAMPLING
    return "" if known and usual and not header.has_profile_fault else "unusual JPEG"


def reason_for(kind: str, resized: bool, raw: bool) -> str:
    """The reason for re-encoding an image, for the counts in the manifest."""
    return kind + (", resized" if resized else "") + (", stored raw" if raw else "")


def refuse_change(reason: str, policy: Policy, changed: bool) -> None:
    """Raises BadImage if the policy forbids re-encoding."""
    if changed and policy.reencode == "never":
        raise BadImage(f"would need re-encoding: {reason}")


def planned_size(width: int, height: int, policy: Policy, kind: str) -> tuple[int, int]:
    """The stored size (width, height), before rotation.

    Raises BadImage if the policy leaves the image out. This is before anything is decoded.
    """
    if width * height > policy.max_pixels:
        raise BadImage(f"more than {policy.max_pixels} pixels: {width} x {height}")
    if policy.min_side is not None and min(width, height) < policy.min_side:
        raise BadImage(f"a side of less than {policy.min_side} pixels: {width} x {height}")
    scale = 1.0
    if policy.max_side is not None:
        scale = min(scale, policy.max_side / max(width, height))
    if policy.short_side is not None:
        scale = min(scale, policy.short_side / min(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if max(size) > JPEG_MAX_SIDE:
        raise BadImage(f"more than {JPEG_MAX_SIDE} pixels on a side: {width} x {height}")
    return size


def encoded(
    decoded: Decoded, policy: Policy, max_bytes: int, raw: bool, reason: str
) -> Prepared:
    """Encodes pixels. Raises BadImage if the result has more than max_bytes."""
    pixels = decoded.pixels
    height, width = pixels.shape[:2]
    data = codec.rgb_bytes(pixels) if raw else codec.encode_jpeg(pixels, policy.quality)
    if len(data) > max_bytes:
        raise BadImage(f"larger than a page of {max_bytes} bytes: give a smaller --max-side")
    return Prepared(data, height, width, raw, reason, highest=decoded.highest)
