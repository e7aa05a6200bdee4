"""audit: planted copies, near-duplicates, flipped labels and traps are found, and nothing in clean images."""

import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from lightning_cifake.assessment import audit_labels, audit_near, audit_page, audit_shortcuts
from lightning_cifake.assessment.audit import Audit, audit
from lightning_cifake.assessment.audit_files import read_header
from lightning_cifake.commands.main import main
from lightning_cifake.data.exclude import read_exclusion
from lightning_cifake.data.protocols import make_split
from lightning_cifake.errors import UserError
from lightning_cifake.files import read_json

EACH = 40  # images of a class in train; half as many in test


def picture(number: int, label: int) -> np.ndarray:
    """(32, 32, 3) uint8: large shapes and fine texture; coarser for label 0, which descriptors see."""
    rng = np.random.default_rng(number)
    shapes = gaussian_filter(rng.normal(size=(32, 32, 3)), (4, 4, 0))
    texture = gaussian_filter(rng.normal(size=(32, 32, 3)), (0.5 if label else 0.9,) * 2 + (0,))
    return np.clip(128 + 45 * shapes / shapes.std() + 12 * texture / texture.std(), 0, 255).astype(np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def clean() -> dict[str, np.ndarray]:
    """Name -> pixels of a data set with nothing wrong: the classes do not even differ."""
    return {
        f"{part}/{name}/{i}.png": picture(100_000 * label + 10_000 * (part == "test") + i, label=1)
        for label, name in enumerate(("FAKE", "REAL"))
        for part, count in (("train", EACH), ("test", EACH // 2))
        for i in range(count)
    }


def written(folder: Path, pictures: dict[str, np.ndarray], kinds: Callable[[str], str] = lambda name: "PNG") -> Path:
    for name, pixels in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(pixels, kinds(name)))
    return folder


PLANTED = {
    "test/FAKE/copy.png": "train/FAKE/0.png",
    "train/REAL/twice.png": "train/REAL/1.png",
    "train/FAKE/both.png": "train/REAL/2.png",
}
NEAR: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "test/REAL/brighter.png": ("train/REAL/3.png", lambda x: np.clip(x * 0.8 + 25.0, 0, 255).astype(np.uint8)),
    "test/REAL/mirrored.png": ("train/REAL/4.png", lambda x: x[:, ::-1]),
    "test/REAL/shifted.png": ("train/REAL/5.png", lambda x: np.roll(x, (1, -1), (0, 1))),
    "test/FAKE/jpeg.png": (
        "train/FAKE/6.png",
        lambda x: np.asarray(Image.open(io.BytesIO(encoded(x, "JPEG", quality=90, subsampling=0)))),
    ),
}


@pytest.fixture(scope="module")
def sound(module_folder: Callable[[str], Path], demo_cache: Path) -> Audit:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("LIGHTNING_CIFAKE_CACHE", str(demo_cache))
        return audit(written(module_folder("clean"), clean()))


@pytest.fixture(scope="module")
def spoilt(module_folder: Callable[[str], Path], demo_cache: Path) -> Audit:
    """The same with copies, near-duplicates, one unreadable file, and JPEG for all REAL."""
    pictures = clean()
    pictures |= {name: pictures[of] for name, of in PLANTED.items()}
    pictures |= {name: change(pictures[of]) for name, (of, change) in NEAR.items()}
    folder = written(module_folder("spoilt"), pictures)
    (folder / "train/FAKE/broken.png").write_bytes(b"no image")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("LIGHTNING_CIFAKE_CACHE", str(demo_cache))
        return audit(folder)


def about(found: Audit, section: str, severity: str = "problem") -> list[str]:
    findings = found.record["findings"]
    return [each["text"] for each in findings if (each["about"], each["severity"]) == (section, severity)]


def test_nothing_is_found_in_clean_images(sound: Audit) -> None:
    assert [each for each in sound.record["findings"] if each["severity"] == "problem"] == []
    assert sound.record["excluded"] == 0 and not [line for line in sound.excluded if not line.startswith("#")]
    assert sound.record["exact"]["groups"] == sound.record["near"]["pairs"] == sound.record["labels"]["count"] == 0
    of_files = [row["verdict"] for row in sound.record["shortcuts"] if row["of"] == "the files"]
    assert "gives the classes away" not in of_files


def test_planted_copies_are_found_within_and_across_parts_and_labels(spoilt: Audit) -> None:
    exact = spoilt.record["exact"]
    assert exact["images_also_in"] == {"test in train": 1} and exact["copies_within"] == {"train": 2}
    assert exact["groups_of_both_labels"] == 1 and exact["groups"] == 3
    assert sorted(map(sorted, exact["listed"])) == sorted(sorted(pair) for pair in PLANTED.items())
    assert exact["listed"][0] == sorted(["train/FAKE/both.png", "train/REAL/2.png"])
    assert any("1 test image is in train too, pixel for pixel" in text for text in about(spoilt, "exact"))


def test_planted_near_duplicates_are_found_and_no_others(spoilt: Audit) -> None:
    near = spoilt.record["near"]
    found = {frozenset(pair["names"]): pair for pair in near["listed"]}
    assert set(found) == {frozenset((name, of)) for name, (of, _) in NEAR.items()}
    assert near["images_also_in"] == {"test in train": 4} and near["mirrored"] == 1
    assert found[frozenset(("test/REAL/mirrored.png", "train/REAL/4.png"))]["mirrored"]
    shifted = found[frozenset(("test/REAL/shifted.png", "train/REAL/5.png"))]
    assert list(map(abs, shifted["shift"])) == [1, 1] and shifted["pixel_correlation"] > 0.99


def test_the_list_leaves_out_what_leaks_and_no_test_image(spoilt: Audit, tmp_path: Path) -> None:
    kept = [line for line in spoilt.excluded if not line.startswith("#")]
    expected = {PLANTED["test/FAKE/copy.png"], "train/FAKE/both.png", "train/REAL/2.png"}
    expected |= {of for of, _ in NEAR.values()}
    assert set(kept) == expected and spoilt.record["excluded"] == len(kept) == len(expected)
    assert "# train/REAL/twice.png" in spoilt.excluded  # a copy in its own part: a comment
    (tmp_path / "excluded.txt").write_text("\n".join(spoilt.excluded))
    assert set(read_exclusion(tmp_path / "excluded.txt", spoilt.images).names) == expected


def test_an_unreadable_file_is_listed(spoilt: Audit) -> None:
    assert [each["name"] for each in spoilt.record["data"]["unreadable"]] == ["train/FAKE/broken.png"]
    assert "1 image cannot be read" in about(spoilt, "data")[0]


def test_without_parts_one_of_each_pair_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo_cache: Path
) -> None:
    monkeypatch.setenv("LIGHTNING_CIFAKE_CACHE", str(demo_cache))
    pictures = {name.removeprefix("train/"): pixels for name, pixels in clean().items() if name.startswith("train/")}
    pictures["REAL/z.png"] = pictures["REAL/3.png"]
    pictures["REAL/mirror.png"] = pictures["REAL/4.png"][:, ::-1]
    found = audit(written(tmp_path / "flat", pictures))
    assert [line for line in found.excluded if not line.startswith("#")] == ["REAL/mirror.png", "REAL/z.png"]
    assert found.record["near"]["pairs_within"] == {"all": 1}
    assert make_split(found.images, "clean") is not None


def test_png_against_jpeg_is_a_trap_and_is_called_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIGHTNING_CIFAKE_CACHE", str(demo_cache))
    written(tmp_path / "trap", clean(), lambda name: "JPEG" if "REAL" in name else "PNG")
    asked = ["--data.root", str(tmp_path / "trap"), "--output", str(tmp_path / "out"), "--model", "compact"]
    assert main(["audit", *asked]) == 0
    record, sealed = read_json(tmp_path / "out/audit.json")
    rows = {row["name"]: row for row in record["shortcuts"]}
    assert sealed and rows["format"]["auroc"]["value"] == 1 and rows["format"]["accuracy"]["value"] == 1
    assert rows["format"]["verdict"] == rows["size of the file in bytes"]["verdict"] == "gives the classes away"
    assert rows["width and height"]["verdict"] == "chance" and rows["mode"]["auroc"]["value"] == 0.5
    assert record["files"]["REAL"]["jpeg_tables"] == {"quality 75": 60}
    assert record["files"]["REAL"]["jpeg_chroma"] == {"4:2:0": 60} and record["files"]["FAKE"]["jpeg_chroma"] == {}
    assert record["labels"]["classifier"] == "the model compact" and not record["labels"]["out_of_fold"]
    said = capsys.readouterr().out
    assert said.startswith("problem: Of the files, this alone gives the classes away") and "format (AUROC 1.000" in said
    assert str(tmp_path) not in (tmp_path / "out/audit.json").read_text()
    page = (tmp_path / "out/audit.html").read_text()
    assert "gives the classes away" in page and str(tmp_path) not in page
    assert re.findall(r"(?:src|href)=\"(?!#|data:)", page) == [] and "<script" not in page


def test_flipped_labels_are_found_and_stand_apart() -> None:
    labels = np.repeat([0, 1], 150)
    images = np.stack([picture(i, int(label)) for i, label in enumerate(labels)])
    before = audit_labels.out_of_fold_probabilities(images, labels, np.arange(300))
    assert len(audit_labels.label_errors(before, labels, "made", True).suspects) == 0
    flipped = np.random.default_rng(0).permutation(300)[:9]
    labels = labels.copy()
    labels[flipped] ^= 1
    found = audit_labels.label_errors(
        audit_labels.out_of_fold_probabilities(images, labels, np.arange(300)), labels, "made", True
    )
    assert set(found.suspects) == set(flipped) and found.apart


def test_what_is_hard_is_not_called_wrong() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 4000)
    logits = rng.normal(2.5 * (2 * labels - 1), 2.0)
    found = audit_labels.label_errors(1 / (1 + np.exp(-logits)), labels, "made", True)
    assert len(found.suspects) > 50 and not found.apart
    chance = audit_labels.label_errors(rng.uniform(size=4000), labels, "made", True)
    assert len(chance.suspects) == 0


def test_no_fold_knows_its_own_images_or_their_copies() -> None:
    labels, groups = np.repeat([0, 1], 50), np.arange(100) // 2
    fold = audit_shortcuts.folds_of(labels, groups)
    assert all(len(set(fold[groups == group])) == 1 for group in groups)
    for number in range(5):
        assert (labels[fold == number] == 1).mean() == 0.5
    memory = audit_shortcuts.out_of_fold(
        lambda seen, known, asked: np.isin(asked[:, 0], seen[:, 0]).astype(float), groups[:, None], labels, fold
    )
    assert memory.sum() == 0


def test_every_pair_that_correlates_is_a_candidate() -> None:
    """The short products that stand for thumbnails lose none."""
    rng = np.random.default_rng(0)
    images = gaussian_filter(rng.uniform(0, 255, (60, 32, 32, 3)), (0, 6, 6, 0))
    images = (128 + 50 * (images - 128) / images.std()).clip(0, 255).astype(np.uint8)
    thumbnails = audit_near._thumbnails(images, np.arange(60))
    assert np.allclose(thumbnails[3], images[3].reshape(8, 4, 8, 4, 3).mean((1, 3)), atol=1e-3)
    vectors, _ = audit_near._unit(thumbnails)
    mirrors, _ = audit_near._unit(thumbnails[:, :, ::-1])
    basis = audit_near._principal(vectors, mirrors)[:, :6]  # so few that much is left out
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(audit_near, "CANDIDATE", 0.3)
        first, second, mirrored, _ = audit_near._candidates(vectors, mirrors, basis, lambda done: None)
    expected = {
        (i, j, m)
        for m, other in ((False, vectors), (True, mirrors))
        for i, j in np.argwhere(np.triu(vectors @ other.T, 1) > 0.3)
    }
    assert len(expected) > 20 and set(zip(first.tolist(), second.tolist(), mirrored.tolist(), strict=True)) == expected


def test_headers_tell_tables_chroma_and_what_is_beside() -> None:
    pixels = picture(1, 1)
    header = read_header(encoded(pixels, "JPEG", quality=92, subsampling=0, progressive=True, exif=b"Exif\0\0II*\0"))
    assert (header.tables, header.sampling, header.mode) == ("quality 92", "4:4:4", "RGB")
    assert "progressive" in header.beside and "exif" in header.beside
    own = [[16 + i % 5 for i in range(64)], [17] * 64]
    assert read_header(encoded(pixels, "JPEG", qtables=own)).tables.startswith("other ")
    grey = read_header(encoded(pixels[..., 0], "JPEG", quality=75))
    assert (grey.tables, grey.sampling, grey.mode) == ("quality 75", "grey", "L")
    from PIL.PngImagePlugin import PngInfo

    words = PngInfo()
    words.add_text("parameters", "steps: 20")
    header = read_header(encoded(pixels, "PNG", pnginfo=words))
    assert (header.format, header.beside, header.tables, header.width) == ("PNG", "text", "", 32)


@pytest.mark.parametrize("wrong", ["one class", "empty", "nowhere", "no name", "a file", "small", "pictures"])
def test_what_cannot_be_looked_at_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, demo_cache: Path, wrong: str
) -> None:
    monkeypatch.setenv("LIGHTNING_CIFAKE_CACHE", str(demo_cache))
    root, output = tmp_path / "images", tmp_path / "out"
    images = {name: pixels for name, pixels in clean().items() if "FAKE" in name or wrong != "one class"}
    if wrong == "empty":
        root.mkdir()
    elif wrong == "a file":
        output.write_text("mine")
    if wrong not in ("empty", "nowhere", "no name"):
        written(root, images)
    more = ["--image_size", "8"] if wrong == "small" else ["--pictures", "-1"] if wrong == "pictures" else []
    named = "" if wrong == "no name" else str(root)
    assert main(["audit", "--data.root", named, "--output", str(output), *more]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.strip().count("\n") == 0 and "expected" in said.err
    assert output.read_text() == "mine" if wrong == "a file" else not output.exists()


def test_a_full_disk_leaves_what_was_there(spoilt: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (audit_page.JSON, audit_page.PAGE, audit_page.LIST):
        (tmp_path / name).write_text("before")
    before = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.name == audit_page.LIST:
            raise OSError(28, os.strerror(28))
        return before(path, content)

    spoilt.record["command"] = "python -m lightning_cifake audit"
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match=r"cannot write to .*No space left on device"):
        audit_page.write(tmp_path, spoilt, 4)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        (audit_page.JSON, audit_page.PAGE, audit_page.LIST), "before"
    )


def test_cifakes_audit_has_the_copies_that_are_known_and_its_page_says_what_the_record_does() -> None:
    folder = Path(__file__).parents[2] / "docs/audit"
    record, sealed = read_json(folder / "audit.json")
    assert sealed and record["data"]["images"] == 120_000
    assert record["exact"]["images_also_in"] == {"test in train": 378}
    assert record["exact"]["copies_within"] == {"test": 38, "train": 920}
    assert record["near"]["images_also_in"]["test in train"] > 100
    page = (folder / "audit.html").read_text()
    assert len(page) < 2_000_000 and "<img" not in page  # CIFAKE's images stay out of the repository
    assert all(finding["text"] in page for finding in record["findings"])
    kept = [line for line in (folder / "excluded.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(kept) == record["excluded"] and all(name.startswith("train/") for name in kept)


def test_the_page_shows_pairs_and_only_as_many_as_asked(spoilt: Audit) -> None:
    spoilt.record["command"] = "python -m lightning_cifake audit"
    assert audit_page.page_of(spoilt, 0).count("<img") == 0
    page = audit_page.page_of(spoilt, 2)
    assert page.count('<span class="pair"><img') == 2 and len(page) < 2_000_000
    for finding in spoilt.record["findings"]:
        assert finding["text"] in page
    assert json.loads(json.dumps(spoilt.record)) == spoilt.record
