"""Colour profiles made by hand, of three primaries and a curve: ICC.1:2001-04 (version 2.4), matrix/TRC."""

import struct

import numpy as np

# of each space the xy of its primaries, and what decodes a value: IEC 61966-2-1's curve, or a power
DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE_RGB = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
D65 = (0.3127, 0.3290)
D50 = np.array([0.9642, 1.0, 0.8249])  # of the profile connection space
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
ADOBE_GAMMA = 563 / 256  # Adobe RGB (1998), 4.3.1.2


def to_xyz(primaries: tuple[tuple[float, float], ...]) -> np.ndarray:
    """(3, 3): linear RGB under D65 -> XYZ (SMPTE RP 177)."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    white = np.array([D65[0] / D65[1], 1, (1 - sum(D65)) / D65[1]])
    return columns * np.linalg.solve(columns, white)


def srgb_decoded(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def srgb_encoded(linear: np.ndarray) -> np.ndarray:
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def in_srgb(rgb: tuple[int, int, int], primaries: tuple[tuple[float, float], ...], gamma: float | None) -> np.ndarray:
    """What a colour of another space is in sRGB, from 0 to 255, by the textbook; both spaces have one white."""
    values = np.array(rgb) / 255
    linear = srgb_decoded(values) if gamma is None else values**gamma
    return 255 * srgb_encoded(np.linalg.solve(to_xyz(SRGB), to_xyz(primaries) @ linear))


def profile(primaries: tuple[tuple[float, float], ...], gamma: float | None, name: str) -> bytes:
    """The profile's bytes; ``gamma`` None is sRGB's curve, as 1,024 points."""
    white = np.array([D65[0] / D65[1], 1, (1 - sum(D65)) / D65[1]])
    scale = np.diag((BRADFORD @ D50) / (BRADFORD @ white))
    adapted = np.linalg.inv(BRADFORD) @ scale @ BRADFORD @ to_xyz(primaries)
    if gamma is None:
        points = np.rint(65535 * srgb_decoded(np.linspace(0, 1, 1024))).astype(">u2")
        curve = struct.pack(">4sII", b"curv", 0, 1024) + points.tobytes()
    else:
        curve = struct.pack(">4sIIH", b"curv", 0, 1, round(gamma * 256)) + bytes(2)
    text = name.encode() + b"\0"
    described = struct.pack(">4sII", b"desc", 0, len(text)) + text + bytes(78)
    tags = {b"desc": described + bytes(-len(described) % 4), b"cprt": struct.pack(">4sI4s", b"text", 0, b"CC0\0")}
    tags |= {b"wtpt": _xyz(D50), **{kind: curve for kind in (b"rTRC", b"gTRC", b"bTRC")}}
    tags |= {kind: _xyz(adapted[:, at]) for at, kind in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    table, body = struct.pack(">I", len(tags)), b""
    for kind, content in tags.items():
        table += struct.pack(">4sII", kind, 128 + 4 + 12 * len(tags) + len(body), len(content))
        body += content
    head = struct.pack(">I4sI4s4s4s", 132 + 12 * len(tags) + len(body), b"", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    head += struct.pack(">6H4s", 2001, 4, 1, 0, 0, 0, b"acsp") + bytes(28) + _fixed(D50)
    return head.ljust(128, b"\0") + table + body


def _xyz(values: np.ndarray) -> bytes:
    return struct.pack(">4sI", b"XYZ ", 0) + _fixed(values)


def _fixed(values: np.ndarray) -> bytes:
    return struct.pack(">3i", *(round(value * 65536) for value in values))
