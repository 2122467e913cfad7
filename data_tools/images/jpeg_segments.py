"""The segments of a JPEG, one by one: each is split off, and checked by the rules of its marker.

The format is ITU-T T.81; "annex" in this file means its annexes. After the start marker, a JPEG is
a list of segments, then compressed bytes (a scan) behind each SOS segment:

    FF D8 | FF E0  00 10  JFIF...  | FF C4  01 A2  tables... | FF DA  00 0C ... | scan ... | FF D9
    start   marker length body       marker length body        SOS              bytes      end

A segment's length counts itself (2 bytes) and the body, not the marker.
"""

from __future__ import annotations

import re
from functools import lru_cache

from data_tools.images.bad_image import BadImage, TruncatedJpeg

# Second bytes of markers (annex B.1.1.3).
HUFFMAN, SCAN, QUANTISATION, HEIGHT, END = 0xC4, 0xDA, 0xDB, 0xDC, 0xD9
# Start-of-frame markers: C0 to CF without DHT, JPG and DAC, which have numbers in that range.
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
BASELINE, EXTENDED, PROGRESSIVE, ARITHMETIC, ARITHMETIC_PROGRESSIVE = 0xC0, 0xC1, 0xC2, 0xC9, 0xCA
# Inside a scan, 0xFF is followed by 0 (a data byte), a restart marker or another 0xFF (a fill
# byte). Any other marker ends the scan.
SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
# Encoders write about ten scans. A decoder passes over the whole image for each scan, even if the
# scan has only a few bytes: a small file could keep it busy for hours.
MAX_SCANS = 100
# A pass over 134 megapixels takes a decoder 0.2 s, so that large images may have fewer scans.
MAX_SCANNED_PIXELS = 1 << 31


def next_segment(data: bytes | memoryview, position: int) -> tuple[int, int, int]:
    """The marker at a position, and the first and last + 1 byte of its body (annex B.1.1).

    Skips fill bytes and markers without a segment. At the image's end (marker 0xD9), both places
    are the position. Raises BadImage if there is no whole segment.
    """
    end = len(data)
    while True:
        while data[position : position + 2] == b"\xff\xff":  # fill bytes
            position += 1
        if position + 2 > end:
            raise TruncatedJpeg("truncated JPEG")
        if data[position] != 0xFF:
            raise BadImage("damaged JPEG: no marker where one must be")
        marker = data[position + 1]
        if marker == END:
            return marker, position, position
        if marker != 0x01 and not 0xD0 <= marker <= 0xD7:  # TEM and restarts have no segment
            break
        position += 2
    if marker == 0xD8:  # the start marker of another image
        raise BadImage("truncated JPEG: another image begins before its end")
    if marker == 0xF7:  # JPEG-LS's frame header (ITU-T T.87)
        raise BadImage("JPEG-LS: not supported, convert it first")
    if marker < 0xC0 or 0xF0 <= marker <= 0xFD:  # reserved
        raise BadImage("damaged JPEG: an unknown marker")
    body = position + 4
    length = int.from_bytes(data[position + 2 : body], "big")
    if body <= end and length < 2:
        raise BadImage("damaged JPEG: a segment of impossible length")
    if body > end or body + length - 2 > end:
        raise TruncatedJpeg("truncated JPEG")
    return marker, body, body + length - 2


def frame_header(marker: int, body: bytes) -> bytes:
    """The marker's byte and a start-of-frame segment's body, checked (annex B.2.2).

        0       1          2  3    4  5   6           7   8         9
        marker  precision  height  width  components  id  sampling  table   (7 to 9 per component)

    Raises BadImage if the length or a sampling factor is impossible.
    """
    if len(body) < 9 or len(body) != 6 + 3 * body[5]:
        raise BadImage("damaged JPEG: a frame header of the wrong length")
    if not all(1 <= s >> 4 <= 4 and 1 <= s & 15 <= 4 for s in body[7::3]):
        raise BadImage("damaged JPEG: impossible sampling factors")
    return bytes((marker, *body))


def size_of(frame: bytes) -> tuple[int, int]:
    """(height, width) of a frame header, as frame_header returns it."""
    return int.from_bytes(frame[2:4], "big"), int.from_bytes(frame[4:6], "big")


def check_scans(scans: int, frame: bytes) -> None:
    """Raises BadImage if decoding this many scans is out of proportion to the image."""
    height, width = size_of(frame)
    most = min(MAX_SCANS, max(1, MAX_SCANNED_PIXELS // max(1, height * width)))
    if scans > most:
        size = f" at {width} x {height} pixels" if most < MAX_SCANS else ""
        raise BadImage(f"JPEG of more than {most} scans{size}")


def scan_components(header: bytes, ids: bytes, frame: int, coded: set[int]) -> set[int]:
    """The indices of the frame's components that a scan header (its segment's body) names.

        0      1   2       ...  -3     -2    -1
        count  id  tables  ...  first  last  high << 4 | low     (1 and 2 per component)

    ids: the components' ids in the frame header. frame: its marker. coded: the Huffman tables that
    the file has defined so far. Raises BadImage if no decoder could follow the header.
    """
    count = header[0] if header else 0
    if not 1 <= count <= 4 or len(header) != 4 + 2 * count:
        raise BadImage("damaged JPEG: a scan header of the wrong length")
    named, tables = header[1:-3:2], header[2:-3:2]
    first, last, high, low = *header[-3:-1], header[-1] >> 4, header[-1] & 15
    fits = all(component in ids for component in named)
    # Each component uses one DC table (0 to 3) and one AC table (16 to 19 here).
    needed = {table >> 4 for table in tables} | {0x10 | table & 15 for table in tables}
    if frame in (PROGRESSIVE, ARITHMETIC_PROGRESSIVE):
        # A scan holds coefficients first..last, either DC alone or AC of one component; `high` is
        # the bit where an earlier scan stopped, 0 if there was none (annex G.1.1.1).
        fits = fits and (last == 0 if first == 0 else first <= last <= 63 and count == 1)
        fits = fits and low <= 13 and (high == 0 or high == low + 1)
        # A scan needs DC or AC tables, never both. Later bits of DC are stored without a code.
        needed = {t for t in needed if t >> 4 == (first > 0) and not (first == 0 and high)}
    else:
        # Decoders know the standard's own tables 0 and 1: frames of MJPEG films define none.
        needed = {table for table in needed if table & 15 > 1}
    if not fits or (frame < ARITHMETIC and not needed <= coded):
        raise BadImage("damaged JPEG: a scan header that does not fit what came before")
    return {number for number, component in enumerate(ids) if component in named}


@lru_cache(64)  # most files hold the standard's own tables
def huffman_tables(tables: bytes) -> frozenset[int]:
    """The numbers of the tables in a DHT segment's body: 0 to 3 for DC, 16 to 19 for AC.

        0       1 ... 16                  17 ...
        number  codes of 1 ... 16 bits    a symbol for each code      (repeated per table)

    Raises BadImage if a table is cut off or its codes are impossible (annex C).
    """
    found = set()
    while tables:
        counts, table = tables[1:17], tables[0]
        codes = sum(counts)
        # A code of n bits takes 2^(16-n) of the 2^16 possible; the code of ones alone is not used.
        room = sum(count << 15 - i for i, count in enumerate(counts)) < 1 << 16
        whole = len(tables) >= 17 + codes and codes <= 256 and not table & ~0x13
        if not whole or not room or (table < 4 and max(tables[17 : 17 + codes], default=0) > 15):
            raise BadImage("damaged JPEG: an impossible Huffman table")
        found.add(table)
        tables = tables[17 + codes :]
    return frozenset(found)


def quantisation_tables(tables: bytes) -> set[int]:
    """The numbers of the tables in a DQT segment's body. Raises BadImage for an impossible one."""
    numbers = set()
    while tables:
        size = 129 if tables[0] >> 4 else 65  # 64 values of 2 bytes or of 1
        if len(tables) < size or tables[0] & ~0x13:
            raise BadImage("damaged JPEG: an impossible quantisation table")
        numbers.add(tables[0] & 3)
        tables = tables[size:]
    return numbers
