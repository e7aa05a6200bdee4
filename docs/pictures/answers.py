"""The picture at the top of the README: images of CIFAKE's test part with what the released model says of them.

    python docs/pictures/answers.py CIFAKE.zip      # writes answers.png and answers.json beside this file

The images are the first of six object classes by file name, of each of the two classes: none was picked.
"""

import json
import re
import sys
import zipfile
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from lightning_cifake import Detector
from lightning_cifake.shipped import released_model

HERE = Path(__file__).resolve().parent
OBJECTS = {"airplane": 1, "bird": 3, "cat": 4, "dog": 6, "horse": 8, "ship": 9}
"""CIFAKE's numbers of them in file names, `0001 (3).jpg`; airplanes have none."""

ROWS = {"REAL": "photographs", "FAKE": "AI-generated images"}
SIDE, GAP, MARGIN, TITLE, CAPTION = 192, 24, 28, 64, 112  # pixels; an image's 32 six times enlarged
INK, GREY, WRONG, PAPER = "#1f2328", "#59636e", "#c0392b", "#ffffff"


def first_images(archive: zipfile.ZipFile, kind: str) -> list[str]:
    """The name of the first test image of each object class."""
    names = sorted(name for name in archive.namelist() if re.search(rf"(^|/)test/{kind}/[^/]+\.jpg$", name))

    def number(name: str) -> int:
        found = re.search(r"\((\d+)\)\.jpg$", name)
        return int(found[1]) if found else 1

    return [next(name for name in names if number(name) == wanted) for wanted in OBJECTS.values()]


def ask(archive_path: Path) -> list[dict[str, object]]:
    """What the model says of each: the image's name inside ``test/``, its class, verdict and P(REAL)."""
    detector, found = Detector(), []
    with zipfile.ZipFile(archive_path) as archive:
        for kind in ROWS:
            for name in first_images(archive, kind):
                (answer,) = detector.predict([archive.read(name)])
                inside = name[name.index("test/") :]
                found.append(
                    {"image": inside, "class": kind, "verdict": answer.verdict, "prob_real": round(answer.prob_real, 4)}
                )
    return found


def draw(archive_path: Path, answers: list[dict[str, object]]) -> Image.Image:
    """A row a class, a column an object class; wrong answers in red."""
    width = 2 * MARGIN + len(OBJECTS) * (SIDE + GAP) - GAP
    row_height = TITLE + SIDE + CAPTION
    picture = Image.new("RGB", (width, 2 * row_height + MARGIN), PAPER)
    paint = ImageDraw.Draw(picture)
    font = ImageFont.load_default(42)  # still read where the picture is as wide as a telephone
    with zipfile.ZipFile(archive_path) as archive:
        names = {name[name.index("test/") :]: name for name in archive.namelist() if "test/" in name}
        for row, (kind, title) in enumerate(ROWS.items()):
            top = MARGIN + row * row_height + TITLE
            paint.text((MARGIN, top - TITLE / 2 - 6), title, INK, font, anchor="lm")
            for column, answer in enumerate(each for each in answers if each["class"] == kind):
                left = MARGIN + column * (SIDE + GAP)
                image = Image.open(BytesIO(archive.read(names[str(answer["image"])]))).convert("RGB")
                picture.paste(image.resize((SIDE, SIDE), Image.Resampling.NEAREST), (left, top))
                right = answer["verdict"] == ("REAL" if kind == "REAL" else "AI")
                middle = left + SIDE / 2
                paint.text(
                    (middle, top + SIDE + 30), str(answer["verdict"]), INK if right else WRONG, font, anchor="mm"
                )
                paint.text((middle, top + SIDE + 76), f"{answer['prob_real']:.2f}", GREY, font, anchor="mm")
    return picture


def main() -> int:
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: python {Path(__file__).name} CIFAKE.zip")
    answers = ask(Path(sys.argv[1]))
    (HERE / "answers.json").write_text(
        json.dumps({"model": released_model().name, "answers": answers}, indent=1) + "\n"
    )
    draw(Path(sys.argv[1]), answers).save(HERE / "answers.png", optimize=True)
    print(*(f"{each['image']}: {each['verdict']}, {each['prob_real']}" for each in answers), sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
