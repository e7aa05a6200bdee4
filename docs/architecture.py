"""Draws architecture.svg: the way of an image, and which package does what. Imports run the same way, never back.

python docs/architecture.py
"""

from pathlib import Path
from xml.sax.saxutils import escape

OUTPUT = Path(__file__).with_suffix(".svg")

STEPS = [  # what happens to an image: title, what it is, the package that does it
    ("source", "a folder or a zip", "data"),
    ("decode once", "uint8 array on disk", "data"),
    ("split", "a protocol", "data"),
    ("batch + augment", "on the training device", "data"),
    ("network", "(N, 3, S, S) to (N,) logits", "networks"),
    ("classifier", "loss, optimizer", "training"),
    ("checkpoint", "best and last", "training"),
    ("export", "ONNX, verified", "deploy"),
    ("detector", "onnxruntime, no torch", "deploy"),
    ("evaluation", "figures, pictures, pages", "evaluation"),
]

COLOURS = {  # of packages: fill, line
    "data": ("#e3f0fb", "#2f6fa7"),
    "networks": ("#fdeedd", "#b3671a"),
    "training": ("#e7f4e4", "#3c7d34"),
    "deploy": ("#efe8f8", "#6b4a9c"),
    "evaluation": ("#fbe6ea", "#a63b54"),
}
OTHERS = [  # beside the way: name, what it is
    ("commands/", "one module a command; imports everything, is imported by nothing"),
    ("keras_io/", "Keras's files, read and written without TensorFlow"),
    ("assessment/", "any model asked about any labelled images"),
    ("serve/", "a page and an HTTP API over an exported model, no torch"),
    ("benchmark/", "every framework in a process of its own"),
    ("tf_reference/", "the published TensorFlow system; imports nothing of ours"),
    ("parity_tests/", "the only place that imports both"),
]

PER_ROW, WIDTH, HEIGHT, GAP, MARGIN = 2, 300, 64, 26, 20  # narrow enough for a telephone
INK, GREY, PAPER = "#1f2328", "#59636e", "#ffffff"


def text(x: float, y: float, words: str, size: int, colour: str = INK, **more: str) -> str:
    attributes = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in more.items())
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}"{attributes}>{escape(words)}</text>'


def box(x: float, y: float, title: str, note: str, package: str) -> list[str]:
    fill, line = COLOURS[package]
    return [
        f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="8" fill="{fill}" stroke="{line}"/>',
        text(x + 14, y + 27, title, 17, font_weight="600"),
        text(x + 14, y + 49, note, 14, GREY),
        text(x + WIDTH - 12, y + 27, f"{package}/", 14, line, text_anchor="end", font_family="monospace"),
    ]


def place(number: int) -> tuple[float, float]:
    """Rows of two, each read from left to right."""
    row, column = divmod(number, PER_ROW)
    return MARGIN + column * (WIDTH + 2 * GAP), MARGIN + row * (HEIGHT + GAP + 8)


def arrow(number: int) -> str:
    """From a box to the next one: to the right, or back to the left of the row below."""
    x, y = place(number)
    to_x, to_y = place(number + 1)
    if to_y == y:
        path = f"M{x + WIDTH:g} {y + HEIGHT / 2:g}H{to_x - 3:g}"
    else:
        between = y + HEIGHT + (to_y - y - HEIGHT) / 2
        path = f"M{x + WIDTH / 2:g} {y + HEIGHT:g}V{between:g}H{to_x + WIDTH / 2:g}V{to_y - 3:g}"
    return f'<path d="{path}" fill="none" stroke="{GREY}" stroke-width="1.6" marker-end="url(#head)"/>'


def svg() -> str:
    width = 2 * MARGIN + PER_ROW * WIDTH + 2 * GAP
    end = place(len(STEPS) - 1)[1] + HEIGHT
    height = end + 40 + 26 * len(OTHERS) + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" font-family="system-ui, sans-serif" role="img" '
        'aria-label="The way of an image through the packages of lightning_cifake">',
        f'<defs><marker id="head" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="{GREY}"/></marker></defs>',
        f'<rect width="{width:g}" height="{height:g}" rx="10" fill="{PAPER}"/>',
    ]
    for number, step in enumerate(STEPS):
        parts += box(*place(number), *step)
    parts += [arrow(number) for number in range(len(STEPS) - 1)]
    for number, (name, note) in enumerate(OTHERS):
        y = end + 46 + 26 * number
        parts += [
            text(MARGIN, y, name, 14, INK, font_family="monospace", font_weight="600"),
            text(MARGIN + 140, y, note, 14, GREY),
        ]
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    OUTPUT.write_text(svg())
    print(f"written to {OUTPUT.name}")
