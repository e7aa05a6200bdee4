"""Small, plain JPEG files, as CIFAKE's are, decoded by OpenCV: the same bits as Pillow's, in a fifth of the time.

Of a file of 32x32 pixels Pillow reads the header in Python, which takes longer than its pixels do. OpenCV holds the
same decoder, libjpeg-turbo, as C alone. It answers only where nothing but the pixels is in question: a baseline file of
three components, without orientation, profile or Adobe's marker, whose data are neither cut short nor damaged in their
form. It has to show on files of the user's that its pixels are Pillow's before it is trusted with one. Of a damaged
file that both decode alike, OpenCV's libjpeg prints a line to standard error, which Pillow's keeps to itself.
"""

import logging
import threading
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

log = logging.getLogger(__name__)

BEFORE = 200  # files that Pillow decodes, in less time than OpenCV's import takes
TRIALS = 16  # files that both decode
MOST_PIXELS = 256 * 256  # of a larger one most of the time goes into its pixels, in either decoder
_PASSED_OVER = {0xFE, *range(0xE3, 0xEE), 0xEF}  # markers that no pixel depends on: a comment, applications' own


class PlainJPEG:
    """A decoder that begins with none, tries OpenCV on files that come, and stays with it where it is right.

    It can be used by several threads at once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen = self._alike = 0
        self._cv2: Any = None
        self.trusted: bool | None = None
        """Whether OpenCV decodes from here on; None: not known yet."""

    def decode(self, content: bytes) -> np.ndarray | None:
        """A file's bytes -> (H, W, 3) uint8 RGB as Pillow has it; None: Pillow is to decode it."""
        return self._decoded(content) if self.trusted and is_plain(content) else None

    def compare(self, content: bytes, pixels: Callable[[], np.ndarray]) -> None:
        """Learns from a file that Pillow has decoded to these pixels whether OpenCV gives the same."""
        if self.trusted is not None or not is_plain(content):
            return
        with self._lock:
            if self.trusted is not None:
                return
            self._seen += 1
            if self._seen <= BEFORE:
                return
            if self._cv2 is None and not self._import():
                self.trusted = False
                return
            found = self._decoded(content)
            if found is None or not np.array_equal(found, pixels()):
                log.debug("OpenCV decodes JPEG otherwise than Pillow here: Pillow decodes")
                self.trusted = False
                return
            self._alike += 1
            if self._alike >= TRIALS:
                self.trusted = True

    def _import(self) -> bool:
        if find_spec("cv2") is None:  # of the extra `train`
            return False
        try:
            import cv2
        except (ImportError, OSError):  # a system library of it is missing
            return False
        self._cv2 = cv2
        return True

    def _decoded(self, content: bytes) -> np.ndarray | None:
        cv2 = self._cv2
        try:
            found = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        except cv2.error:
            return None
        return None if found is None else cv2.cvtColor(found, cv2.COLOR_BGR2RGB)


PLAIN_JPEG = PlainJPEG()
"""The process's."""

_headers: dict[bytes, bool] = {}
"""Headers that were gone through. Those of one camera or program are few; of many only so many are kept."""
_KEPT = 64


def is_plain(content: bytes) -> bool:
    """Whether a file's bytes are a small baseline JPEG in YCbCr, whole, with nothing in it that changes its pixels.

    Source: ITU-T T.81, annex B.
    """
    if content[:3] != b"\xff\xd8\xff" or content[-2:] != b"\xff\xd9":
        return False
    # where the data begin, as nearly every file has it: three components in one scan, in this order
    start = content.find(b"\xff\xda\x00\x0c\x03\x01")
    if start < 0:
        return False
    header = content[:start]
    known = _headers.get(header)
    if known is None:
        known = _is_plain_header(header)
        if len(_headers) >= _KEPT:
            _headers.clear()
        _headers[header] = known
    if not known:
        return False
    data = content[start + 14 : -2]
    return data.count(b"\xff") == data.count(b"\xff\x00")  # no other marker: no second scan, nothing cut and joined


def _is_plain_header(header: bytes) -> bool:
    """All segments before the scan; they end where it begins."""
    at, frame, jfif = 2, False, False
    while at + 4 <= len(header):
        marker, length = header[at + 1], int.from_bytes(header[at + 2 : at + 4])
        segment = header[at + 4 : at + 2 + length]
        if header[at] != 0xFF or length < 2 or len(segment) != length - 2:
            return False
        if marker == 0xE0:
            jfif = jfif or (segment[:5] == b"JFIF\0" and at == 2)
        elif marker == 0xC0 and not frame:
            frame = _is_small_frame(segment)
            if not frame:
                return False
        elif marker not in (0xDB, 0xC4, *_PASSED_OVER):  # tables; others are Exif, profiles, progressive frames...
            return False
        at += 2 + length
    return at == len(header) and frame and jfif


def _is_small_frame(segment: bytes) -> bool:
    """8 bits, three components numbered as JFIF has them, colours halved or not."""
    if len(segment) != 15 or segment[0] != 8 or segment[5] != 3:
        return False
    height, width = int.from_bytes(segment[1:3]), int.from_bytes(segment[3:5])
    numbers, sampling = segment[6::3], (segment[7], segment[10], segment[13])
    return (
        0 < height * width <= MOST_PIXELS
        and numbers == b"\x01\x02\x03"
        and sampling in ((0x11, 0x11, 0x11), (0x21, 0x11, 0x11), (0x22, 0x11, 0x11))
    )
