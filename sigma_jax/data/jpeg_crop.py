"""Crops JPEGs before they are decoded, so that only the crop has to be decoded.

With restart markers the data of a JPEG is a sequence of segments. Each segment holds some blocks (MCUs) of one row of
blocks and can be decoded without the segments before it. The segments that a crop touches, after the header of a
smaller picture, are therefore a JPEG of that part, and its pixels are those of the whole picture. Chroma is
interpolated between blocks, so the part reaches one pixel beyond the crop. `prepare --payload=jpeg` writes such JPEGs;
others are decoded whole.

Letters: n pictures, S segments of a row of blocks, T all segments of a picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Box = tuple[int, int, int, int]  # top, left, height, width in pixels
BLOCK = 16  # pixels along each side of a block with 4:2:0 chroma
MIN_PIXELS = 2**16  # of a picture: cropping smaller ones takes longer than decoding them whole
_SIZE, _RESTART, _SCAN = 0xC0, 0xDD, 0xDA  # markers: baseline frame header, restart interval, start of scan
_REFUSED = {*range(0xC1, 0xD0)} - {0xC4, 0xC8, 0xCC}  # frame headers of other kinds of JPEG
_RST0, _EOI = 0xD0, 0xD9


def restart_interval(width: int) -> int:
    """Blocks per segment of a picture `width` pixels wide: two where that divides a row (3 % more bytes), else one."""
    return 2 - -(-width // BLOCK) % 2


@dataclass(frozen=True)
class _Header:
    """What the bytes of a JPEG before its segments say."""

    size: int  # bytes
    size_at: int  # where height and width stand, big-endian u16 each
    height: int
    width: int
    block: tuple[int, int]  # pixels: height, width
    rows: int  # of blocks
    segments: int  # S


def cut(images: Sequence[bytes], box: Box) -> tuple[list[bytearray], tuple[int, int]] | None:
    """JPEGs of the smallest parts that hold `box`, and the box's (top, left) in them.

    A picture of 3 rows with S = 4 segments each, and the segments of a box that touches the last two rows:

        header | s0 RST0 s1 RST1 s2 RST2 s3 RST3 | s4 RST4 s5 RST5 s6 RST6 s7 RST7 | s8 RST0 s9 RST1 s10 RST2 s11 EOI
        header*                                         | s5 RST0 s6 RST1               | s9 RST2 s10 EOI

    In the header, height and width are replaced by those of the part. Every segment keeps the marker behind it, which
    is renumbered for its new place.

    Args:
      images: n JPEGs of one video, all with the same header.
      box: lies inside the pictures.

    Returns:
      (JPEGs, (top, left) of the box in them), or None where the pictures cannot be cropped (no restart markers within
      the rows, another kind of JPEG, different headers, or markers in unexpected places, which the decoder will report
      as damage) or are small.
    """
    header = _read_header(images[0])
    if header is None or any(image[: header.size] != images[0][: header.size] for image in images[1:]):
        return None
    joined, sizes = b"".join(images), np.array([len(image) for image in images])
    starts = np.cumsum(sizes) - sizes
    marks = _find_marks(joined, starts, sizes, header)
    if marks is None:
        return None
    touched, (y, x, height, width) = _touched_segments(header, box)
    head = bytearray(images[0][: header.size])
    head[header.size_at : header.size_at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    # [n T+1]: bytes between which a segment and the marker behind it lie
    edges = np.concatenate([starts[:, None] + header.size, marks + 2], axis=1)
    return _join_segments(joined, edges, marks, head, touched), (box[0] - y, box[1] - x)


def _touched_segments(header: _Header, box: Box) -> tuple[np.ndarray, Box]:
    """Numbers [rows columns] of the segments that `box`, enlarged by a pixel, touches, and the box that they cover."""
    top, left, height, width = box
    block_height, block_width = header.block
    segment_width = block_width * (-(-header.width // block_width) // header.segments)
    rows = np.arange(max(top - 1, 0) // block_height, min((top + height) // block_height + 1, header.rows))
    columns = np.arange(max(left - 1, 0) // segment_width, min((left + width) // segment_width + 1, header.segments))
    y, x = int(rows[0]) * block_height, int(columns[0]) * segment_width
    part_height = min(len(rows) * block_height, header.height - y)
    part_width = min(len(columns) * segment_width, header.width - x)
    return rows[:, None] * header.segments + columns, (y, x, part_height, part_width)


def _join_segments(
    joined: bytes, edges: np.ndarray, marks: np.ndarray, head: bytearray, touched: np.ndarray
) -> list[bytearray]:
    """Joins `head` and the segments `touched` of every picture to a JPEG, with renumbered markers."""
    low, high = (
        edges[:, touched[:, 0]],
        edges[:, touched[:, -1] + 1],
    )  # [n rows]: where each row's segments begin and end
    places = len(head) + np.cumsum(high - low, axis=1) - (high - low)  # of each row in the new JPEG
    new_marks = (places[..., None] + marks[:, touched] - low[..., None]).reshape(len(marks), -1)
    view, numbers, parts = memoryview(joined), _numbers(new_marks.shape[1]), []
    for row_starts, row_ends, mark in zip(low.tolist(), high.tolist(), new_marks, strict=True):
        part = head.copy()
        for start, end in zip(row_starts, row_ends, strict=True):
            part += view[start:end]
        np.frombuffer(part, np.uint8)[mark + 1] = numbers
        parts.append(part)
    return parts


def _read_header(image: bytes) -> _Header | None:
    """The header; None unless it is a baseline JPEG of MIN_PIXELS in one scan whose segments divide the block rows."""
    at, interval, size_at = 2, 0, 0
    while image[at : at + 1] == b"\xff" and at + 4 <= len(image):
        marker, length = image[at + 1], int.from_bytes(image[at + 2 : at + 4], "big")
        body = image[at + 4 : at + 2 + length]
        if marker in _REFUSED:
            return None
        if marker == _SIZE:
            size_at, components = at + 5, body[5:6]
            factors = list(body[7::3])  # two numbers of 4 bits per component
        elif marker == _RESTART:
            interval = int.from_bytes(body[:2], "big")
        at += 2 + length
        if marker == _SCAN:
            break
    else:
        return None
    if at > len(image) or not size_at or not interval or not len(factors) == components[0] == body[0] > 1:
        return None
    height, width = (int.from_bytes(image[i : i + 2], "big") for i in (size_at, size_at + 2))
    block = 8 * max(f & 15 for f in factors), 8 * max(f >> 4 for f in factors)
    if not min(height, width, *block) or height * width < MIN_PIXELS:
        return None
    rows, per_row = -(-height // block[0]), -(-width // block[1])
    if per_row % interval:
        return None
    return _Header(at, size_at, height, width, block, rows, per_row // interval)


def _find_marks(joined: bytes, starts: np.ndarray, sizes: np.ndarray, header: _Header) -> np.ndarray | None:
    """Positions int64 [n T] of the marker behind each segment; None where they are not those of complete pictures."""
    data = np.frombuffer(joined, np.uint8)
    found = np.flatnonzero((data[:-1] == 0xFF) & (data[1:] - _RST0 < 10))
    found = found[found - starts[np.searchsorted(starts, found, side="right") - 1] >= header.size]
    total = header.rows * header.segments
    if len(found) != len(sizes) * total:
        return None
    marks = found.reshape(len(sizes), total)
    belong = (marks[:, 0] >= starts) & (marks[:, -1] == starts + sizes - 2)
    return marks if belong.all() and (data[marks + 1] == _numbers(total)).all() else None


def _numbers(count: int) -> np.ndarray:
    """Second bytes of `count` markers: restart markers are numbered modulo 8, the last marker ends the picture."""
    numbers = (_RST0 + np.arange(count) % 8).astype(np.uint8)
    numbers[-1] = _EOI
    return numbers
