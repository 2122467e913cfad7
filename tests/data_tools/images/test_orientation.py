"""The orientation of the first Exif block counts, else that of XMP, in every format."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from data_tools.images.orientation import exif_orientation, orientation_of, xmp_orientation
from data_tools.images.prepare_image import prepare_image, sniff_jpeg
from data_tools.policy import Policy
from tests.support.made_files.sample_images import encode, jpeg, smooth

XMP = b"http://ns.adobe.com/xap/1.0/\0"
RDF = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" {}>{}'
    "</rdf:Description></rdf:RDF></x:xmpmeta>"
)
NAMESPACE = 'xmlns:{}="http://ns.adobe.com/tiff/1.0/"'


def exif(value: int, order: str = "<", kind: str = "H", number: int = 3) -> bytes:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    field = struct.pack(order + kind, value).ljust(4, b"\0")
    return mark + struct.pack(order + "IHHHI", 8, 1, 0x0112, number, 1) + field + bytes(4)


def segment(body: bytes) -> bytes:
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


def with_segments(*bodies: bytes) -> bytes:
    data = jpeg(24, 32)
    return data[:2] + b"".join(map(segment, bodies)) + data[2:]


def xmp(attributes: str = "", elements: str = "", prefix: str = "tiff") -> bytes:
    return RDF.format(NAMESPACE.format(prefix) + " " + attributes, elements).encode()


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("kind", "number"), [("H", 3), ("I", 4), ("B", 1), ("b", 6), ("h", 8), ("i", 9)]
)
def test_integers_of_every_type(order: str, kind: str, number: int) -> None:
    for value in range(1, 9):
        assert exif_orientation(exif(value, order, kind, number)) == value
    assert exif_orientation(b"II*\0" + bytes(40)) == 0
    for end in range(len(exif(6))):
        assert exif_orientation(exif(6)[:end]) in (0, 6)


@pytest.mark.parametrize(
    "packet",
    [
        xmp('tiff:Orientation="6"'),
        xmp("tiff:Orientation='6'"),
        xmp('tiff:Orientation = " 6 "'),
        xmp(elements="<tiff:Orientation>6</tiff:Orientation>"),
        xmp(elements="<tiff:Orientation >\n 6 \n</tiff:Orientation>"),
        xmp(elements='<tiff:Orientation rdf:datatype="x">6</tiff:Orientation>'),
        xmp('t0:Orientation="6"', prefix="t0"),
        xmp(elements="<exif-tiff:Orientation>6</exif-tiff:Orientation>", prefix="exif-tiff"),
        xmp('<!-- tiff:Orientation="3" --> tiff:Orientation="6"'),
        xmp('tiff:Orientation="6"').decode().encode("utf-16"),
        b"\xef\xbb\xbf" + xmp('tiff:Orientation="6"'),
        b'<rdf:Description tiff:Orientation="6"/>',  # whose namespace is not declared
    ],
)
def test_xmp_in_every_spelling(packet: bytes) -> None:
    assert xmp_orientation(packet) == 6
    data = with_segments(XMP + packet)
    assert sniff_jpeg(data).orientation == sniff_jpeg(data, whole=True).orientation == 6
    prepared = prepare_image(data, Policy(quality=100))
    assert prepared[1:5] == (32, 24, False, "EXIF-rotated JPEG")


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        xmp(),
        xmp('tiff:OrientationX="6"'),
        xmp('other:Orientation="6"'),
        xmp('xtiff:Orientation="6"'),
        xmp('tiff:Orientation=""'),
        xmp('tiff:Orientation="six"'),
        b"tiff:Orientation" * 9999,
        b'<a tiff:Orientation="' + b" " * 60000,
    ],
)
def test_xmp_without_an_orientation(packet: bytes) -> None:
    assert xmp_orientation(packet) == 0
    assert prepare_image(with_segments(XMP + packet[:60000]), Policy()).reason == ""


def test_which_of_several_counts() -> None:
    mark = b"Exif\0\0"
    six, three = mark + exif(6), mark + exif(3)
    xmp_eight = XMP + xmp('tiff:Orientation="8"')
    no_tag = mark + b"II*\0" + struct.pack("<IHI", 8, 0, 0)
    extended = b"http://ns.adobe.com/xmp/extension/\0" + b"D" * 32 + struct.pack(">II", 999, 0)
    for bodies, want in [
        ((six, three), 6), ((three, six), 3), ((six, xmp_eight), 6), ((xmp_eight, six), 6),
        ((no_tag, six), 1), ((no_tag, xmp_eight), 8), ((mark, six), 1), ((xmp_eight,), 8),
        ((XMP + xmp(), extended + xmp('tiff:Orientation="8"')), 8),
        ((mark + exif(1), xmp_eight), 1), ((mark + exif(9), xmp_eight), 1),
        ((mark + exif(6, ">", "I", 4),), 6), ((XMP + xmp('tiff:Orientation="12"'),), 1),
    ]:  # fmt: skip
        assert sniff_jpeg(with_segments(*bodies)).orientation == want, bodies
    assert orientation_of(b"", []) == 1


def test_a_packet_that_is_cut_by_segments_is_joined() -> None:
    head = b"http://ns.adobe.com/xmp/extension/\0" + b"D" * 32 + struct.pack(">II", 999, 0)
    packet = xmp(elements="<tiff:Orientation>6</tiff:Orientation>")
    at = packet.index(b"ientation>6")
    assert sniff_jpeg(with_segments(head + packet[:at], head + packet[at:])).orientation == 6


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("order", "<>")
def test_a_long_counts_in_other_formats(form: str, order: str) -> None:
    image = Image.fromarray(smooth(30, 50))
    data = encode(image, form, exif=b"Exif\0\0" + exif(6, order, "I", 4), quality=95)
    got = prepare_image(data, Policy(), raw=True)
    assert (got.height, got.width) == (50, 30)
    want = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert got.data == want.tobytes()


@pytest.mark.parametrize("form", ["PNG", "WEBP", "AVIF"])
def test_xmp_counts_in_other_formats(form: str) -> None:
    packet = xmp('tiff:Orientation="6"')
    options = {"xmp": packet}
    if form == "PNG":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", packet.decode())
        options = {"pnginfo": info}
    data = encode(Image.fromarray(smooth(30, 50)), form, quality=95, **options)
    assert prepare_image(data, Policy()).height == 50


def test_the_turn_that_an_avif_itself_holds() -> None:
    """irot and imir, which Pillow writes for an orientation, are undone once and not twice."""
    block = Image.Exif()
    pixels = smooth(30, 50)
    upright = encode(Image.fromarray(pixels), "AVIF", quality=100)
    for orientation in range(1, 9):
        block[0x0112] = orientation
        data = encode(Image.fromarray(pixels), "AVIF", exif=block, quality=100)
        assert (b"irot" in data or b"imir" in data) == (orientation != 1)
        plain = prepare_image(upright, Policy(), raw=True)
        want = np.frombuffer(plain.data, np.uint8).reshape(30, 50, 3)
        want = want.swapaxes(0, 1) if orientation > 4 else want
        want = want[::-1] if orientation in (3, 4, 7, 8) else want
        want = want[:, ::-1] if orientation in (2, 3, 6, 7) else want
        got = prepare_image(data, Policy(), raw=True)
        assert (got.height, got.width) == want.shape[:2]
        difference = np.frombuffer(got.data, np.uint8).reshape(want.shape) - want.astype(int)
        assert np.abs(difference).mean() < 1, orientation
