"""What changes cost a model is what the model sees of them, at the size of the file, the same twice."""

from pathlib import Path

import numpy as np
import pytest
from made import write_images, write_model
from PIL import Image

from lightning_cifake.assessment.images import Asked, LabelledImages, open_images
from lightning_cifake.assessment.models import Model, open_model
from lightning_cifake.assessment.originals import has_larger, logits_under
from lightning_cifake.assessment.robustness import measure_robustness
from lightning_cifake.assessment.tables import _print_robustness
from lightning_cifake.data.resize import of_array
from lightning_cifake.deploy.larger import LARGER, under
from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.perturbations import FAMILIES, Perturbation, brightness, noise, perturbations


@pytest.fixture
def model(workplace: Path) -> Model:
    """Calls REAL what is brighter than 127.5."""
    return open_model(write_model(workplace / "model.onnx"))


def opened(root: Path | str) -> LabelledImages:
    return open_images(Asked(str(root)), 32, "cache")


def write_levels(root: Path, fake: list[int], real: list[int], size: int = 32) -> LabelledImages:
    for folder, levels in (("FAKE", fake), ("REAL", real)):
        (root / folder).mkdir(parents=True)
        for number, level in enumerate(levels):
            Image.fromarray(np.full((size, size, 3), level, np.uint8)).save(root / folder / f"{number}.png")
    return opened(root)


def test_a_model_that_reads_brightness_flips_where_a_pocket_calculator_says(model: Model) -> None:
    # x 0.75: 160 -> 120 and 180 -> 135; x 1.25: 110 -> 137, 90 -> 112
    images = write_levels(Path("levels"), fake=[90, 110, 120], real=[160, 180, 100])
    changes = [Perturbation("brightness", factor, brightness(factor)) for factor in (0.75, 1.25)]
    found = measure_robustness(model, images, changes=changes)
    rows = {(row["name"], row["strength"]): row for row in found["rows"]}
    clean, dark, light = rows["none", None], rows["brightness", 0.75], rows["brightness", 1.25]
    assert (clean["accuracy"], clean["recall_fake"], clean["recall_real"]) == (5 / 6, 1, 2 / 3)
    assert (dark["accuracy"], dark["recall_fake"], dark["recall_real"]) == (4 / 6, 1, 1 / 3)
    assert (light["accuracy"], light["recall_fake"], light["recall_real"]) == (3 / 6, 1 / 3, 2 / 3)
    assert clean["auroc"] == dark["auroc"] == light["auroc"] == pytest.approx(7 / 9)
    assert clean["accuracy_interval"][0] < 5 / 6 < clean["accuracy_interval"][1]
    assert [row["flipped"] for row in found["rows"]] == [0, 1, 2]
    assert [row["flipped_to_real"] for row in found["rows"]] == [0, 0, 2] and dark["flips"] == 1 / 6
    assert found["worst"] == 2 and found["flips_of_image"] == [0, 1, 1, 1, 0, 0]
    assert found["right_under_all"] == 2 / 6  # 90 and 180
    assert [(each["name"], each["after"]) for each in found["most_flipped"]] == [
        ("FAKE/1.png", ["brightness 1.25"]),
        ("FAKE/2.png", ["brightness 1.25"]),
        ("REAL/0.png", ["brightness 0.75"]),
    ]
    assert found["most_flipped"][2]["prob_real"] == pytest.approx(1 / (1 + np.exp(-8 * (160 / 255 - 0.5))), abs=1e-6)


def test_every_change_is_a_row_and_those_that_change_nothing_give_the_answers_without_one(model: Model) -> None:
    images = opened(write_images(Path("two"), *(f"{label}/{i}.png" for label in ("FAKE", "REAL") for i in range(8))))
    found = measure_robustness(model, images)
    assert [(row["name"], row["strength"]) for row in found["rows"]] == [("none", None)] + [
        (name, strength) for name, (_, strengths) in FAMILIES.items() for strength in strengths
    ]
    plain, png = ({k: v for k, v in row.items() if k != "name"} for row in found["rows"][:2])
    assert plain == png and plain["flipped"] == 0
    by_name = {(row["name"], row["strength"]): row for row in found["rows"]}
    assert by_name["flip", "both"]["accuracy"] == plain["accuracy"]  # a mean does not know where pixels are
    assert by_name["brightness", 0.5]["recall_fake"] == 1 and by_name["brightness", 1.5]["recall_real"] == 1
    assert found["images"] == found["of"] == 16
    assert measure_robustness(model, images, sample=4)["images"] == 4


def test_the_same_seed_gives_the_same_twice_and_an_image_s_noise_does_not_hang_on_its_place(model: Model) -> None:
    images = write_levels(Path("levels"), fake=[*range(113, 128)], real=[*range(128, 143)])
    changes = [Perturbation("noise", 200, noise(200))]
    first, again, other = (measure_robustness(model, images, changes=changes, seed=seed) for seed in (0, 0, 1))
    assert first == again and first["rows"][1]["flipped"] > 0
    assert first["flips_of_image"] != other["flips_of_image"]
    some = measure_robustness(model, images.take(np.array([25, 3, 17])), changes=changes)
    assert some["flips_of_image"] == [first["flips_of_image"][at] for at in (25, 3, 17)]


def test_an_image_is_changed_at_the_size_of_its_file(model: Model) -> None:
    """Every other pixel is white: a blur makes them grey, and scaling first would have taken the black ones alone."""
    for label in ("FAKE", "REAL"):
        (Path("large") / label).mkdir(parents=True)
        stripes = np.zeros((64, 64, 3), np.uint8)
        stripes[:, ::2] = 40
        Image.fromarray(stripes).save(Path("large") / label / "a.png")
    seen: list[tuple[int, ...]] = []

    def look(image: np.ndarray, _: object) -> np.ndarray:
        seen.append(image.shape)
        return image

    images = opened("large")
    assert has_larger(images)
    measure_robustness(model, images, changes=[Perturbation("look", None, look)])
    assert seen == [(64, 64, 3)] * 2


def mosaics(root: Path, suffix: str = "png") -> np.ndarray:
    """Of 3 x 3 patches, whose middle alone is REAL or not: what each policy answers is known."""
    levels = np.random.default_rng(0).integers(0, 256, (6, 3, 3))
    for number, grid in enumerate(levels):
        path = root / ("REAL" if grid[1, 1] > 127 else "FAKE") / f"{number}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.kron(grid[..., None], np.ones((32, 32, 3))).astype(np.uint8)).save(path)
    return levels


def test_policies_about_larger_pictures_are_measured_on_the_files_pixels(model: Model) -> None:
    levels = mosaics(Path("mosaics"))
    images = opened("mosaics")
    order = [int(Path(name).stem) for name in images.names]
    logits = 8 * (levels[order] / 255 - 0.5)
    assert logits_under(model, images, "crop") == pytest.approx(logits[:, 1, 1], abs=1e-5)
    assert logits_under(model, images, "tiles") == pytest.approx(logits.mean((1, 2)), abs=1e-5)
    pixels = [np.asarray(Image.open(Path("mosaics") / name)) for name in images.names]
    assert logits_under(model, images) == pytest.approx(8 * (images.pixels().mean((1, 2, 3)) / 255 - 0.5), abs=1e-5)
    for larger in LARGER[1:]:
        found = measure_robustness(model, images, larger=larger, changes=perturbations()[:1])
        policy = under(model, larger)
        alone = policy.logits([policy.prepare(of_array(each)) for each in pixels]) > 0
        assert found["rows"][0]["accuracy"] == found["rows"][1]["accuracy"] == (alone == images.labels).mean()
        assert found["larger"] == larger
    assert measure_robustness(model, images, larger="crop", changes=[])["rows"][0]["accuracy"] == 1


def test_a_zip_and_a_csv_are_read_again_too(model: Model) -> None:
    import shutil

    mosaics(Path("mosaics"))
    folder = logits_under(model, opened("mosaics"), "crop")
    shutil.make_archive("packed", "zip", ".", "mosaics")
    rows = [f"{path},{path.parent.name}" for path in sorted(Path("mosaics").glob("*/*"))]
    Path("listed.csv").write_text("\n".join(["path,label", *rows]))
    for other in ("packed.zip", "listed.csv"):
        assert sorted(logits_under(model, opened(other), "crop")) == sorted(folder), other


def test_a_file_that_has_gone_is_one_line_and_so_is_one_that_was_damaged_since(model: Model) -> None:
    mosaics(Path("mosaics"))
    images = opened("mosaics")
    path = Path("mosaics") / images.names[2]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=f"cannot measure on {images.names[2]}: "):
        logits_under(model, images, "tiles")
    path.unlink()
    with pytest.raises(UserError, match=r"no data|cannot read") as caught:
        logits_under(model, images, "tiles")
    assert "\n" not in str(caught.value)


def test_the_terminal_shows_of_each_change_the_strength_that_costs_most(
    model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_levels(Path("levels"), fake=[90, 110, 120], real=[160, 180, 100])
    changes = [Perturbation("brightness", factor, brightness(factor)) for factor in (0.75, 1.25, 1.1)]
    _print_robustness(measure_robustness(model, images, changes=changes))
    said = capsys.readouterr().out
    assert "6 of the images" in said and "33.33 % are called right after every change" in said
    rows = [line.split() for line in said.splitlines() if line.startswith((" none", " brightness"))]
    assert [(row[:3], row[-1]) for row in rows] == [
        (["none", "83.33", "%"], "0"),
        (["brightness", "1.25", "50.00"], "2"),
    ]
