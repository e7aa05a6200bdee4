import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from lightning_cifake.data.datamodule import Batch, CIFAKEDataModule, to_float
from lightning_cifake.data.decode import load_images
from lightning_cifake.data.image_file import decode_image
from lightning_cifake.data.protocols import make_split, write_split
from lightning_cifake.errors import UserError

real_data = pytest.mark.skipif(
    "CIFAKE_ROOT" not in os.environ, reason="needs CIFAKE: set CIFAKE_ROOT to its folder or zip"
)


class Watcher(L.LightningModule):
    """Learns next to nothing and keeps every batch it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))
        self.seen: dict[str, list[Batch]] = {"train": [], "val": [], "test": [], "predict": []}

    def _see(self, name: str, batch: Batch) -> Tensor:
        self.seen[name].append(batch)
        logits = batch.images.mean((2, 3)) @ self.weight
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.labels)

    def training_step(self, batch: Batch, index: int) -> STEP_OUTPUT:
        return self._see("train", batch)

    def validation_step(self, batch: Batch, index: int) -> STEP_OUTPUT:
        return self._see("val", batch)

    def test_step(self, batch: Batch, index: int) -> STEP_OUTPUT:
        return self._see("test", batch)

    def predict_step(self, batch: Batch, index: int) -> STEP_OUTPUT:
        return self._see("predict", batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def trainer(recwarn: pytest.WarningsRecorder) -> Callable[..., L.Trainer]:
    def make(**settings: Any) -> L.Trainer:
        return L.Trainer(
            **{"max_epochs": 1, "num_sanity_val_steps": 0, **settings},
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    return make


@pytest.fixture(scope="module")
def source(madedata: Any, module_folder: Callable[[str], Path]) -> Path:
    """60 images of each class, in train/ and test/."""
    return madedata.zip(module_folder("source") / "made.zip", madedata.files("kaggle", 60))


@pytest.fixture
def module(source: Path, demo_cache: Path) -> Callable[..., CIFAKEDataModule]:
    def make(**settings: Any) -> CIFAKEDataModule:
        settings = {"root": str(source), "cache_dir": str(demo_cache), "batch_size": 8, **settings}
        return CIFAKEDataModule(**settings)

    return make


def expected_pixels(data: CIFAKEDataModule, batch: Batch) -> np.ndarray:
    assert data.images is not None
    return data.images.images[batch.index.numpy()].transpose(0, 3, 1, 2).astype(np.float32) / 255


def test_training_sees_every_training_image_augmented_and_validation_plain(
    module: Callable[..., CIFAKEDataModule], trainer: Callable[..., L.Trainer]
) -> None:
    data, watcher = module(eval_batch_size=16), Watcher()
    trainer().fit(watcher, data)
    assert data.images is not None and data.split is not None
    for name, part in (("train", data.split.train), ("val", data.split.val)):
        batches = watcher.seen[name]
        assert sorted(torch.cat([batch.index for batch in batches]).tolist()) == sorted(part.tolist())
        for batch in batches:
            assert batch.images.shape == (len(batch.index), 3, 32, 32) and batch.images.dtype == torch.float32
            assert batch.images.is_contiguous(memory_format=torch.channels_last)
            assert batch.labels.tolist() == data.images.labels[batch.index.numpy()].tolist()
            same = np.array_equal(batch.images.numpy(), expected_pixels(data, batch))
            assert same == (name == "val")
    assert [len(batch.index) for batch in watcher.seen["train"][:-1]] == [8] * (len(watcher.seen["train"]) - 1)
    assert watcher.seen["val"][0].images.min() >= 0 and watcher.seen["val"][0].images.max() <= 1
    assert watcher.seen["train"][0].index.tolist() != data.split.train[:8].tolist()  # shuffled


def test_without_augmentation_training_sees_the_images_themselves(
    module: Callable[..., CIFAKEDataModule], trainer: Callable[..., L.Trainer]
) -> None:
    data, watcher = module(augment=False), Watcher()
    trainer(max_steps=2).fit(watcher, data)
    assert len(watcher.seen["train"]) == 2
    for batch in watcher.seen["train"]:
        assert np.array_equal(batch.images.numpy(), expected_pixels(data, batch))


def test_augmentation_differs_by_epoch_and_repeats_with_the_seed(
    module: Callable[..., CIFAKEDataModule], trainer: Callable[..., L.Trainer]
) -> None:
    runs = []
    for _ in range(2):
        L.seed_everything(5, verbose=False)
        watcher = Watcher()
        trainer(max_epochs=2, limit_val_batches=0).fit(watcher, module())
        runs.append(watcher.seen["train"])
    assert all(torch.equal(a.images, b.images) for a, b in zip(*runs, strict=True))
    half = len(runs[0]) // 2
    first, second = (torch.cat([batch.index for batch in part]) for part in (runs[0][:half], runs[0][half:]))
    assert not torch.equal(first, second) and sorted(first.tolist()) == sorted(second.tolist())


def test_testing_and_predicting_see_the_test_split_plain_in_order_whatever_the_batch_size(
    module: Callable[..., CIFAKEDataModule], trainer: Callable[..., L.Trainer]
) -> None:
    seen = []
    for size in (1, 7, 256):
        data, watcher = module(protocol="official", eval_batch_size=size), Watcher()
        trainer().test(watcher, data, verbose=False)
        trainer().predict(watcher, data, return_predictions=False)
        for name in ("test", "predict"):
            seen.append(torch.cat([batch.images for batch in watcher.seen[name]]))
            index = torch.cat([batch.index for batch in watcher.seen[name]])
            assert data.split is not None and index.tolist() == data.split.test.tolist()
    assert all(torch.equal(each, seen[0]) for each in seen)
    assert set(path.split("/")[0] for path in data.paths(index)) == {"test"}


def test_a_float64_model_gets_float64_images_and_labels(
    module: Callable[..., CIFAKEDataModule], trainer: Callable[..., L.Trainer]
) -> None:
    watcher = Watcher().double()
    trainer(fast_dev_run=True).fit(watcher, module(per_image=True, rotation=10, zoom=0.1))
    for name in ("train", "val"):
        assert watcher.seen[name][0].images.dtype == watcher.seen[name][0].labels.dtype == torch.float64


def test_images_are_brought_to_the_size_that_is_asked_for(
    module: Callable[..., CIFAKEDataModule], trainer: Callable[..., L.Trainer]
) -> None:
    watcher = Watcher()
    trainer(fast_dev_run=True).fit(watcher, module(image_size=20))
    assert watcher.seen["val"][0].images.shape[1:] == (3, 20, 20)


def test_scaling_is_x_over_255_and_channels_last() -> None:
    pixels = torch.arange(2 * 4 * 4 * 3, dtype=torch.uint8).reshape(2, 4, 4, 3)
    for dtype in (torch.float32, torch.float64):
        scaled = to_float(pixels, dtype)
        assert scaled.dtype == dtype and scaled.shape == (2, 3, 4, 4)
        theirs = pixels.numpy().astype(scaled.numpy().dtype) / 255
        assert np.array_equal(scaled.numpy(), theirs.transpose(0, 3, 1, 2))
        assert scaled.is_contiguous(memory_format=torch.channels_last)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """Takes the warnings that have been logged since it was last asked."""

    def take() -> list[str]:
        messages = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        caplog.clear()
        return messages

    yield take


def test_published_says_once_a_run_that_it_leaks_and_the_others_do_not(
    module: Callable[..., CIFAKEDataModule], said: Callable[[], list[str]]
) -> None:
    for _ in range(2):
        data = module(protocol="published", pool="all")
        data.setup("fit")
        (message,) = said()
        assert "trains on every image" in message
        sizes = data.split.sizes() if data.split else {}
        assert f"all {sizes['val']} validation and all {sizes['test']} test" in message
        data.setup("test")  # fit's own test at its end
        assert said() == []
    for protocol in ("clean", "official"):
        module(protocol=protocol).setup()
        assert said() == []


def test_a_split_with_twins_on_two_sides_is_called_a_leak(
    madedata: Any, module: Callable[..., CIFAKEDataModule], said: Callable[[], list[str]], tmp_path: Path
) -> None:
    files = madedata.files("kaggle", 20)
    twins = {path.replace("train/REAL/", "test/REAL/twin of ") for path in files if path.startswith("train/REAL/")}
    files |= {path: files[path.replace("test/REAL/twin of ", "train/REAL/")] for path in twins}
    data = module(root=str(madedata.folder(tmp_path, files)), protocol="official", val_fraction=0.5)
    data.setup()
    (message,) = said()
    assert data.split is not None and data.images is not None
    trained = int(data.images.labels[data.split.train].sum())
    assert trained == 10 and message.startswith(
        f"10 of the {len(data.split.test)} test images are in the training part"
    )
    assert data.facts()["leak_audit"]["test_images_with_twin_in_train"] == 10
    seen = data.split.test[data.seen_in_training(data.split.test)]
    assert len(seen) == 10 and {data.images.paths[i] for i in seen} < twins


@pytest.fixture
def spoilt(madedata: Any, tmp_path: Path) -> Path:
    return madedata.folder(
        tmp_path / "spoilt", {**madedata.files("flat", 30), "REAL/bad.jpg": b"", "FAKE/notes.txt": b"x"}
    )


def test_files_that_cannot_be_used_are_left_out_listed_and_counted(
    module: Callable[..., CIFAKEDataModule], spoilt: Path, said: Callable[[], list[str]]
) -> None:
    data = module(root=str(spoilt))
    data.setup()
    (message,) = said()
    for part in ("1 image of", "REAL/bad.jpg: empty file", "not named like images: 1 .txt\n", "left out"):
        assert part in message
    assert data.facts()["left_out_files"] == 2 and sum(data.split.sizes().values()) == 60  # type: ignore[union-attr]


def test_the_data_line_counts_the_classes_of_each_part(
    module: Callable[..., CIFAKEDataModule], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "lightning_cifake")
    data = module(protocol="official", val_fraction=0.5)
    data.setup()
    (line,) = [message for message in caplog.messages if message.startswith("data: ")]
    expected = "train 30 FAKE + 30 REAL, val 30 FAKE + 30 REAL, test 60 FAKE + 60 REAL"
    assert line.endswith(f"240 images; protocol official: {expected}")


def test_files_whose_form_gives_the_class_away_are_warned_of_and_others_not(
    madedata: Any, module: Callable[..., CIFAKEDataModule], said: Callable[[], list[str]], tmp_path: Path
) -> None:
    alike = {f"{label}/{i}.png": madedata.encoded(i, "PNG") for label in ("REAL", "FAKE") for i in range(30)}
    trap = {f"REAL/{i}.jpg": madedata.encoded(i, size=64) for i in range(30)}
    trap |= {f"FAKE/{i}.png": madedata.encoded(i, "PNG", "RGBA", 128) for i in range(30)}
    plain = module(root=str(madedata.folder(tmp_path / "alike", alike)))
    plain.setup()
    assert plain.facts()["told_apart_by"] == {"format": 0.5, "mode": 0.5, "size": 0.5}
    data = module(root=str(madedata.folder(tmp_path / "trap", trap)))
    data.setup("fit")
    assert data.facts()["told_apart_by"] == {"format": 1, "mode": 1, "size": 1}
    *_, message = said()
    for part in (
        "the files alone give the classes",
        "format (100%; FAKE: 30 of 30 PNG, REAL: 30 of 30 JPEG)",
        "mode (100%; FAKE: 30 of 30 RGBA, REAL: 30 of 30 RGB)",
        "size (100%; FAKE: 30 of 30 128x128, REAL: 30 of 30 64x64)",
    ):
        assert part in message
    again = module(root=str(tmp_path / "trap"))
    again.setup("test")
    assert said() == [message]  # from the decoded images that are kept


def test_class_folders_by_other_names_are_mapped_and_keep_a_place_of_their_own_in_the_cache(
    madedata: Any, module: Callable[..., CIFAKEDataModule], tmp_path: Path
) -> None:
    names = {"ai": "FAKE", "nature": "REAL"}
    files = {f"{name}/{i}.jpg": madedata.encoded(i + 100 * (name == "ai")) for name in names for i in range(30)}
    root = str(madedata.folder(tmp_path / "a", files))
    with pytest.raises(UserError, match=r"--data\.classes fake=ai,real=nature"):
        module(root=root).setup()
    data, swapped = module(root=root, classes="fake=ai,real=nature"), module(root=root, classes="fake=nature,real=ai")
    for each in (data, swapped):
        each.setup()
    assert data.images is not None and swapped.images is not None
    assert data.images.classes == "fake=ai,real=nature" and data.images.paths[0].startswith("ai/")
    assert swapped.images.paths[0].startswith("nature/")
    plain = {f"{names[path.split('/')[0]]}/{path.split('/')[1]}": content for path, content in files.items()}
    renamed = module(root=str(madedata.folder(tmp_path / "b", plain)))
    renamed.setup()
    assert renamed.images is not None and np.array_equal(renamed.images.images, data.images.images)
    assert module(classes="real=Nature,fake=AI").classes == data.classes
    with pytest.raises(UserError, match=r"data\.classes: expected fake=FOLDER"):
        module(classes="ai")


@pytest.mark.parametrize("form", ["folder", "path"])
def test_a_folder_that_is_called_demo_is_told_from_the_built_in_data(
    madedata: Any,
    demo_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    form: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO", "lightning_cifake")
    load_images("demo", cache_dir=demo_cache)
    assert not caplog.messages
    madedata.folder(tmp_path / "demo", madedata.files("flat"))
    assert len(load_images("demo", cache_dir=demo_cache)) == len(load_images("demo", cache_dir=demo_cache)) == 2026
    assert caplog.messages == ["data: demo is the built-in data, not the folder demo/ that is here; that one is ./demo"]
    named = load_images("./demo" if form == "folder" else Path("demo"), cache_dir=demo_cache)
    assert len(named) == 6 and named.name == "./demo"


def test_a_tilde_is_the_home_folder_for_every_path(
    madedata: Any, module: Callable[..., CIFAKEDataModule], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    madedata.folder(tmp_path / "images", madedata.files("flat", 30))
    data = module(root="~/images", cache_dir="~/cache")
    data.setup()
    assert data.images is not None and data.split is not None and (tmp_path / "cache").is_dir()
    assert data.facts()["data"] == "images"
    write_split(tmp_path / "split.json", data.images, data.split)
    again = module(root="~/images", cache_dir="~/cache", split_file="~/split.json")
    again.setup()
    assert again.split is not None and np.array_equal(again.split.test, data.split.test)


def test_webp_tiff_and_wrongly_named_files_are_trained_on_and_the_last_are_told_of(
    madedata: Any, module: Callable[..., CIFAKEDataModule], said: Callable[[], list[str]], tmp_path: Path
) -> None:
    kinds = {".WebP": "WEBP", ".tif": "TIFF", ".JFIF": "JPEG", ".jpg": "PNG", ".png": "PNG"}
    files = {
        f"{label}/{i}{suffix}": madedata.encoded(i, kind, **({"lossless": True} if kind == "WEBP" else {}))
        for label in ("REAL", "FAKE")
        for i in range(8)
        for suffix, kind in kinds.items()
    }
    data = module(root=str(madedata.folder(tmp_path / "a", {**files, "REAL/photo.raw": b"x", "FAKE/b.RAW": b"x"})))
    data.setup()
    assert data.images is not None and len(data.images) == len(files) and data.images.problems == []
    for path, pixels in zip(data.images.paths, data.images.images, strict=True):
        if not path.endswith(".JFIF"):
            assert np.array_equal(pixels, madedata.pixels(int(path[5])))
    misnamed, skipped, *_ = said()
    assert "16 files named for another format than what is in it, first FAKE/0.jpg, which is PNG" in misnamed
    assert "2 files in the class folders" in skipped and "not named like images: 2 .raw" in skipped


def test_a_files_name_from_a_stranger_moves_no_terminal(
    madedata: Any, module: Callable[..., CIFAKEDataModule], said: Callable[[], list[str]], tmp_path: Path
) -> None:
    evil = "\x1b]0;owned\x07\u202e"
    files = {**madedata.files("flat", 30), f"REAL/{evil}.jpg": b"", f"REAL/a.{evil}": b"x", f"FAKE/{evil}.png": b"x"}
    root = madedata.folder(tmp_path / evil, files)
    data = module(root=str(root))
    data.setup()
    messages = said()
    assert messages and all(line.isprintable() for message in messages for line in message.split("\n"))
    with pytest.raises(UserError) as caught:
        module(root=str(root), strict=True).setup()
    assert all(line.isprintable() for line in str(caught.value).split("\n"))


def test_strict_stops_with_the_list_each_time(module: Callable[..., CIFAKEDataModule], spoilt: Path) -> None:
    data = module(root=str(spoilt), strict=True)
    data.prepare_data()
    for _ in range(2):
        with pytest.raises(UserError) as caught:
            data.setup()
        for part in (
            "1 image of",
            "REAL/bad.jpg: empty file",
            "not named like images: 1 .txt\n",
            "--data.strict false",
        ):
            assert part in str(caught.value)


def test_a_long_list_is_cut_after_twenty(
    madedata: Any, module: Callable[..., CIFAKEDataModule], tmp_path: Path
) -> None:
    bad = {f"REAL/bad{i:03}.jpg": b"" for i in range(33)}
    root = madedata.folder(tmp_path, {**madedata.files("flat", 30), **bad})
    with pytest.raises(UserError, match="33 images") as caught:
        module(root=str(root), strict=True).setup()
    assert str(caught.value).count("empty file") == 20 and "and 13 more" in str(caught.value)


def test_a_wrong_path_is_a_user_error_before_anything_starts(
    module: Callable[..., CIFAKEDataModule], trainer: Callable[..., L.Trainer], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"no data at .*nowhere"):
        trainer().fit(Watcher(), module(root=str(tmp_path / "nowhere")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 1}, "batch_size: expected at least 2"),
        ({"eval_batch_size": 0}, "eval_batch_size at least 1"),
        ({"image_size": 0}, "image_size: expected 1 to 1024, got 0"),
        ({"image_size": 5000}, "image_size"),
        ({"seed": -1}, "seed: expected 0 to 4294967295, got -1"),
        ({"seed": 2**32}, "seed"),
        ({"rotation": -3.0}, r"data\.rotation: expected"),
        ({"zoom": 1.0}, r"data\.zoom: expected"),
    ],
)
def test_impossible_settings_are_user_errors_at_construction(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CIFAKEDataModule(**settings)


def test_the_split_is_the_settings_split_and_setup_keeps_it(module: Callable[..., CIFAKEDataModule]) -> None:
    settings = {"protocol": "clean", "seed": 9, "sample": 200, "pool": "all"}
    data = module(**settings)
    data.setup("fit")
    split, images = data.split, data.images
    assert split is not None and images is not None
    data.setup("test")
    assert data.split is split and data.images is images
    again = make_split(images, "clean", 9, 200, "all")
    assert np.array_equal(split.train, again.train) and np.array_equal(split.test, again.test)


def test_a_split_file_is_used_instead_of_drawing(module: Callable[..., CIFAKEDataModule], tmp_path: Path) -> None:
    first = module(seed=3)
    first.setup()
    assert first.images is not None and first.split is not None
    write_split(tmp_path / "split.json", first.images, first.split)
    data = module(seed=4, protocol="published", split_file=str(tmp_path / "split.json"))
    data.setup()
    assert data.split is not None and data.split.protocol == "clean"
    assert np.array_equal(data.split.train, first.split.train) and data.facts()["split_seed"] == 3
    with pytest.raises(UserError, match="there is no"):
        module(split_file=str(tmp_path / "none.json")).setup()


def test_the_facts_are_json_and_name_no_folder(module: Callable[..., CIFAKEDataModule], source: Path) -> None:
    data = module(protocol="official", sample=100)
    data.setup()
    facts = json.loads(json.dumps(data.facts()))
    assert facts["data"] == "made.zip" and str(source.parent) not in json.dumps(facts)
    assert facts["protocol"] == "official" and facts["sample"] == 100 and facts["left_out_files"] == 0
    assert facts["split_sizes"] == {"train": 80, "val": 20, "test": 120}
    assert facts["data_digest"] == data.images.digest  # type: ignore[union-attr]
    assert set(facts["leak_audit"].values()) == {0}


def test_the_current_folder_has_a_name_in_the_facts_too(
    madedata: Any, module: Callable[..., CIFAKEDataModule], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(madedata.folder(tmp_path / "mine", madedata.files("flat", 30)))
    data = module(root=".")
    data.setup()
    assert data.facts()["data"] == "mine"


def test_paths_name_the_files_behind_a_batch(module: Callable[..., CIFAKEDataModule], madedata: Any) -> None:
    data = module()
    data.setup()
    batch = next(iter(data.train_dataloader()))
    moved = data.transfer_batch_to_device(batch, torch.device("cpu"), 0)
    files = madedata.files("kaggle", 60)
    for path, pixels in zip(data.paths(moved.index), moved.images, strict=True):
        assert np.array_equal(pixels.numpy(), decode_image(files[path]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("on_device", [True, False, None])
def test_on_a_gpu_the_batches_are_the_same_wherever_the_images_lie(
    module: Callable[..., CIFAKEDataModule], on_device: bool | None
) -> None:
    data, plain = module(on_device=on_device), module()
    device = torch.device("cuda", 0)
    for each in (data, plain):
        each.setup()
    for batch in plain.val_dataloader():
        ours = data.transfer_batch_to_device(batch, device, 0)
        theirs = plain.transfer_batch_to_device(batch, torch.device("cpu"), 0)
        assert ours.images.device == ours.labels.device == device
        assert torch.equal(ours.images.cpu(), theirs.images) and torch.equal(ours.labels.cpu(), theirs.labels)


@real_data
def test_cifake_has_its_120000_images_and_its_known_duplicates(cifake_cache: Path) -> None:
    images = load_images(os.environ["CIFAKE_ROOT"], cache_dir=cifake_cache)
    assert images.images.shape == (120_000, 32, 32, 3) and images.problems == []
    counts = np.unique(
        np.stack([images.labels, images.parts == "test", images.object_classes]), axis=1, return_counts=True
    )
    assert counts[0].shape[1] == 40 and sorted(set(counts[1])) == [1000, 5000]

    train, test = images.parts == "train", images.parts == "test"
    pairs = {}
    for name, part in (("train", train), ("test", test)):
        sizes = np.unique(images.groups[part], return_counts=True)[1]
        pairs[name] = int((sizes * (sizes - 1) // 2).sum())
    assert pairs == {"train": 920, "test": 38}
    twin = test & np.isin(images.groups, images.groups[train])
    assert twin.sum() == 378 and set(images.labels[twin]) == {0}
    assert set(images.labels[train & np.isin(images.groups, images.groups[twin])]) == {0}


@real_data
@pytest.mark.parametrize(
    ("protocol", "sizes"),
    [
        ("published", {"train": 20_000, "val": 4_000, "test": 2_016}),
        ("clean", {"train": 14_000, "val": 4_000, "test": 2_000}),
        ("official", {"train": 18_000, "val": 2_000, "test": 20_000}),
    ],
)
def test_cifake_is_split_as_the_paper_says_and_clean_has_no_leak(
    cifake_cache: Path, protocol: Any, sizes: dict[str, int]
) -> None:
    data = CIFAKEDataModule(os.environ["CIFAKE_ROOT"], protocol, sample=20_000, cache_dir=str(cifake_cache))
    data.setup()
    assert data.split is not None and data.images is not None
    ours = data.split.sizes()
    assert ours == sizes if protocol == "published" else all(abs(ours[part] - sizes[part]) <= 40 for part in sizes)
    assert np.bincount(data.images.labels[data.split.train])[0] == pytest.approx(sizes["train"] / 2, abs=40)
    audit = data.facts()["leak_audit"]
    if protocol == "clean":
        assert set(audit.values()) == {0}
    else:
        assert audit["test_images_in_train"] == (2_016 if protocol == "published" else 0)
