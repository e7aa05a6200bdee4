"""CIFAKEDataModule: a source, a protocol and the augmentation as Lightning asks for them."""

import logging
from collections import Counter
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from torch import Tensor

from lightning_cifake.classes import CLASS_NAMES
from lightning_cifake.data.augment import Augmentation, Flips, PublishedAugmentation
from lightning_cifake.data.decode import DEMO, ImageSet, load_images
from lightning_cifake.data.degrade import KINDS, Degradation, Kind
from lightning_cifake.data.encodings import GIVEN_AWAY, describe_giveaway, giveaways
from lightning_cifake.data.exclude import Exclusion, read_exclusion, without
from lightning_cifake.data.image_names import count_by_suffix
from lightning_cifake.data.layout import parse_classes
from lightning_cifake.data.loader import IndexLoader
from lightning_cifake.data.protocols import Pool, Protocol, Split, leak_audit, make_split, read_split, seen_in_training
from lightning_cifake.distributed import BatchShard, shard_of, use_shard
from lightning_cifake.errors import UserError
from lightning_cifake.files import expand_user, public_name
from lightning_cifake.limits import LARGEST_IMAGE
from lightning_cifake.text import plural, printable

log = logging.getLogger(__name__)


class Batch(NamedTuple):
    """What a step gets: images (N, 3, S, S) float in [0, 1] (augmented: a little beyond), labels (N,) float, FAKE = 0
    and REAL = 1 (of mixed images: the share of REAL), index (N,) int64 into the source, which shard of the batch this
    is where processes share it, and objects (N,) int64, what each image shows: from 0, -1 where it is not known."""

    images: Tensor
    labels: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which no batch needs
    shard: BatchShard | None = None
    objects: Tensor | None = None


class CIFAKEDataModule(L.LightningDataModule):
    """Real and generated images, split by a protocol, augmented on the training device.

    Args:
        root: a folder or a .zip with REAL/ and FAKE/ in it, with or without train, val and test above or below them
            (CIFAKE unpacked, as Kaggle lays it out, or the author's zip as downloaded), or ``demo``, the built-in data
            (a folder of that name is ``./demo``).
        protocol: ``clean`` (70/20/10 of the images, disjoint, duplicates kept on one side), ``official`` (CIFAKE's own
            train and test, validation carved from train), or ``published`` (the paper's cut, which trains on every
            image, validation and test included).
        seed: of the sample, the split and the order of training. Same seed, same split, on any machine.
        sample: takes this many images, half of each class, even over the object classes; all when empty.
        pool: what ``published`` and ``clean`` draw from: ``train`` leaves out what the source keeps as test, ``all``
            takes everything.
        val_fraction: share of the training images that ``official`` validates on.
        split_file: reads the split from this file (split.json of a run) instead of drawing it.
        batch_size: images a training step, of all processes together.
        eval_batch_size: images a batch of validation, test and prediction, of all processes; changes no result.
        augment: changes training images at random: by flips, brightness and contrast, as published, unless the next
            arguments say otherwise. ``false`` overrules all of them.
        flips: which ways images are mirrored.
        jitter: changes brightness and contrast.
        per_image: draws brightness and contrast for each image, not once for the whole batch as published.
        rotation: random rotation by up to this many degrees; in the paper's text, not in its code.
        zoom: random zoom by up to this share; in the paper's text, not in its code.
        crop: shifts each image by up to this many pixels either way: a crop of it padded by reflection.
        cutout: puts the image's mean in place of a square of this side.
        mixup: mixes each image, and its label, with another one of the batch, by a share from Beta(mixup, mixup).
        degrade: the share of images that are blurred, re-scaled, saved as JPEG or made noisy.
        degradations: which of these, all alike often.
        image_size: height and width that images are brought to.
        strict: stops at files that cannot be used, with a list of them, instead of leaving them out.
        on_device: keeps all images in the training device's memory; by default on a GPU when they take less than a
            quarter of it.
        cache_dir: where the decoded images are kept; by default $LIGHTNING_CIFAKE_CACHE or the user's cache folder.
        classes: the names of the class folders where they are not REAL and FAKE: ``fake=ai,real=nature``; several of
            one class joined by +.
        exclude: a file with the names of images that are left out of every part, one a line, as ``audit`` writes it.
    """

    def __init__(
        self,
        root: str = DEMO,
        protocol: Protocol = "clean",
        seed: int = 0,
        sample: int | None = None,
        pool: Pool = "train",
        val_fraction: float = 0.1,
        split_file: str | None = None,
        batch_size: int = 32,
        eval_batch_size: int = 256,
        augment: bool = True,
        per_image: bool = False,
        rotation: float = 0.0,
        zoom: float = 0.0,
        flips: Flips = "both",
        jitter: bool = True,
        crop: int = 0,
        cutout: int = 0,
        mixup: float = 0.0,
        degrade: float = 0.0,
        degradations: tuple[Kind, ...] = KINDS,
        image_size: int = 32,
        strict: bool = False,
        on_device: bool | None = None,
        cache_dir: str | None = None,
        classes: str | None = None,
        exclude: str | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 2 or eval_batch_size < 1:
            raise UserError(
                f"data.batch_size: expected at least 2 (batch norm cannot train on one image) and data.eval_batch_size "
                f"at least 1, got {batch_size} and {eval_batch_size}"
            )
        if not 1 <= image_size <= LARGEST_IMAGE:
            raise UserError(f"data.image_size: expected 1 to {LARGEST_IMAGE}, got {image_size}")
        if not 0 <= seed < 2**32:
            raise UserError(f"data.seed: expected 0 to 4294967295, got {seed}")
        if crop >= image_size:
            raise UserError(f"data.crop: expected less than data.image_size, {image_size}, got {crop}")
        try:
            published = PublishedAugmentation(per_image, rotation, zoom, flips, jitter)
            changes = Augmentation(published, crop, cutout, mixup, Degradation(degrade, degradations))
            self.augmentation = changes if augment else None
        except ValueError as error:
            raise UserError(f"data.{error}") from error
        self.classes = str(parse_classes(classes)) if classes else None  # what means the same is the same
        self.root, self.protocol, self.seed, self.sample, self.pool = root, protocol, seed, sample, pool
        self.val_fraction, self.split_file, self.exclude = val_fraction, split_file, exclude
        self.exclusion: Exclusion | None = None
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.image_size, self.strict, self.on_device, self.cache_dir = image_size, strict, on_device, cache_dir
        self.images: ImageSet | None = None
        self.split: Split | None = None
        self._pixels: Tensor | None = None  # (N, S, S, 3) uint8, on the CPU or on the training device
        self._labels: Tensor | None = None

    def prepare_data(self) -> None:
        """Decodes the source once a node, before the processes of that node open the result."""
        self._load()

    def setup(self, stage: str | None = None) -> None:
        """Opens the decoded images and splits them, and warns of leaks and of problems. Idempotent.

        Raises:
            UserError: the source or the split cannot be had; with ``strict``, a file that cannot be used.
        """
        if self.split is not None:
            return
        images = self._load()
        self._report_problems(images)
        if self.exclude:
            self.exclusion = read_exclusion(self.exclude, images)
            images = without(images, self.exclusion)
            log.info("data.exclude: %s left out of every part", printable(self.exclusion))
        self.images = images
        if self.split_file:
            self.split = read_split(expand_user(self.split_file), images)
        else:
            self.split = make_split(images, self.protocol, self.seed, self.sample, self.pool, self.val_fraction)
        self._pixels = torch.from_numpy(images.images)
        self._labels = torch.from_numpy(images.labels.astype(np.float32))
        self._objects = torch.from_numpy(images.object_classes.astype(np.int64) - 1)
        log.info(
            "data: %s, %s images; protocol %s: train %s, val %s, test %s",
            printable(images.name), f"{len(images):,}", printable(self.split.protocol),
            *(self._class_counts(indices) for indices in (self.split.train, self.split.val, self.split.test)),
        )  # fmt: skip
        self._warn_of_leaks()
        self._warn_of_giveaways()

    def _class_counts(self, indices: np.ndarray) -> str:
        assert self.images is not None
        counts = np.bincount(self.images.labels[indices], minlength=2)
        return " + ".join(f"{count:,} {name}" for count, name in zip(counts, CLASS_NAMES, strict=True))

    def _load(self) -> ImageSet:
        return load_images(self.root, self.image_size, self.cache_dir, self.classes)

    def _report_problems(self, images: ImageSet) -> None:
        shown = printable(images.name)
        for note in images.notes:
            log.warning("%s: %s", shown, note)
        skipped = Counter(images.skipped)
        found = []
        if skipped:
            found.append(
                f"{plural(skipped.total(), 'file')} in the class folders of {shown} not named like images: "
                f"{count_by_suffix(skipped)}"
            )
        if images.problems:
            listed = [f"  {printable(each.path)}: {printable(each.reason)}" for each in images.problems[:20]]
            more = [f"  and {len(images.problems) - 20:,} more"] if len(images.problems) > 20 else []
            found.append(
                "\n".join([f"{plural(len(images.problems), 'image')} of {shown} that cannot be used:", *listed, *more])
            )
        if not found:
            return
        if self.strict:
            raise UserError("\n".join([*found, "fix or remove them, or leave them out with --data.strict false"]))
        log.warning("%s", "\n".join([*found, "They are left out; --data.strict true would stop here."]))

    def _warn_of_giveaways(self) -> None:
        """Where the files' form tells the classes apart, a model need not look at what they show."""
        assert self.images is not None
        found = [
            f"{name} ({score:.0%}; {describe_giveaway(name, *self._used_encodings())})"
            for name, score in self._giveaways().items()
            if score >= GIVEN_AWAY
        ]
        if found:
            log.warning(
                "the files alone give the classes of %s away, without a look at what they show, by their %s: figures "
                "on these images may say nothing about others; expected both classes saved alike and at the same size",
                printable(self.images.name), " and ".join(found),
            )  # fmt: skip

    def _used_encodings(self) -> tuple[np.ndarray, np.ndarray]:
        """The encodings and the labels of the images that are used; none of the demo, which has no files."""
        assert self.images is not None and self.split is not None
        if not len(self.images.encodings):
            return self.images.encodings, self.images.labels[:0]
        used = np.unique(np.concatenate([self.split.train, self.split.val, self.split.test]))
        return self.images.encodings[used], self.images.labels[used]

    def _giveaways(self) -> dict[str, float]:
        return giveaways(*self._used_encodings())

    def _warn_of_leaks(self) -> None:
        assert self.images is not None and self.split is not None
        if self.split.protocol == "published":
            audit = leak_audit(self.images, self.split)
            log.warning(
                "protocol published trains on every image, as the paper's code does: all %s validation and all %s test "
                "images are among them, and figures on them say nothing about new images. Use clean or official for "
                "figures that mean something.",
                f"{audit['val_images_in_train']:,}",
                f"{audit['test_images_in_train']:,}",
            )
            return
        for name, indices in (("validation", self.split.val), ("test", self.split.test)):
            seen = int(self.seen_in_training(indices).sum())
            if seen:
                log.warning(
                    "%s of the %s %s images are in the training part too, themselves or as a twin of the same pixels; "
                    "the test's report gives the accuracy without those that were trained on beside the whole",
                    f"{seen:,}",
                    f"{len(indices):,}",
                    name,
                )

    def train_dataloader(self) -> IndexLoader:
        assert self.split is not None
        return self._loader("batch_size", self.split.train, shuffle=True)

    def val_dataloader(self) -> IndexLoader:
        assert self.split is not None
        return self._loader("eval_batch_size", self.split.val)

    def test_dataloader(self) -> IndexLoader:
        assert self.split is not None
        return self._loader("eval_batch_size", self.split.test)

    predict_dataloader = test_dataloader

    def _loader(self, size: str, indices: np.ndarray, shuffle: bool = False) -> IndexLoader:
        """The batches of all processes.

        Raises:
            UserError: a batch has too few images for every process to have its shard.
        """
        batch_size, processes = getattr(self, size), self._processes[1]
        loader = IndexLoader(indices, batch_size, shuffle, self.seed, processes)
        if processes == 1 or not len(loader):
            return loader
        assert self.trainer is not None
        minimum = getattr(self.trainer.lightning_module, "min_images_per_rank", 2) if shuffle else 1
        if loader.smallest_batch // processes < minimum:
            error = UserError(
                f"data.{size}: {batch_size} makes a batch of {loader.smallest_batch} of the {len(indices):,} images, "
                f"and {processes} processes need {minimum} each: expected another data.{size}, or fewer processes"
            )
            error.reported_by_rank_zero = not self.trainer.is_global_zero
            raise error
        return loader

    @property
    def _processes(self) -> tuple[int, int]:
        """This process's number, from 0, and how many there are."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Gathers a batch of indices and brings it to the device, as bytes: a quarter of what floats would take.

        Of a batch that processes share, this process's shard; all of it where its images are to be mixed.
        """
        self._move_to_device(device)
        assert self._pixels is not None and self._labels is not None
        shard = shard_of(len(batch), *self._processes)
        batch = batch if shard is None or self._mixes else shard.slice(batch)
        # pinned: a GPU fetches it while the host goes on to the next launch
        index = batch.pin_memory().to(device, non_blocking=True) if self._pixels.is_cuda else batch
        found = (each[index].to(device, non_blocking=True) for each in (self._pixels, self._labels, self._objects))
        pixels, labels, objects = found
        return Batch(pixels, labels, batch, shard, objects)

    def _move_to_device(self, device: torch.device) -> None:
        """Moves all images to the training device, once, where that is asked for or pays."""
        assert self._pixels is not None and self._labels is not None
        if device.type == "cpu" or self._pixels.device == device or self.on_device is False:
            return
        if self.on_device is None:
            roomy = device.type == "cuda" and torch.cuda.mem_get_info(device)[1] > 4 * self._pixels.nbytes
            if not roomy:
                self.on_device = False
                return
        self._pixels, self._labels = self._pixels.to(device), self._labels.to(device)
        self._objects = self._objects.to(device)

    @property
    def _mixes(self) -> bool:
        """Whether images are to be mixed with others of the batch, be they of another process's shard."""
        mixup = self.augmentation is not None and self.augmentation.mixup > 0
        return mixup and self.trainer is not None and bool(self.trainer.training)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Scales to [0, 1] and, in training, augments; on the device."""
        assert self.trainer is not None
        dtype = next(self.trainer.lightning_module.parameters()).dtype
        images, labels, index, shard = to_float(batch.images, dtype), batch.labels.to(dtype), batch.index, batch.shard
        objects = batch.objects
        if self.trainer.training and self.augmentation is not None:
            with use_shard(None if self._mixes else shard):
                images, labels = self.augmentation(images, labels)
            if self._mixes and shard is not None:
                images, labels, index = shard.slice(images), shard.slice(labels), shard.slice(index)
                objects = None if objects is None else shard.slice(objects)
        return Batch(images, labels, index, shard, objects)

    def paths(self, index: Tensor | np.ndarray) -> list[str]:
        """The files behind a batch's ``index``."""
        assert self.images is not None
        return [self.images.paths[int(i)] for i in index]

    def facts(self) -> dict[str, Any]:
        """What a reader needs to know about the data of a result: for metrics.json."""
        assert self.images is not None and self.split is not None
        return {
            "data": public_name(self.images.name),
            "data_digest": self.images.digest,
            "protocol": self.split.protocol,
            "split_seed": self.split.seed,
            "sample": self.sample,
            **({} if self.exclusion is None else {"excluded": str(self.exclusion)}),
            "split_sizes": self.split.sizes(),
            "leak_audit": leak_audit(self.images, self.split),
            "left_out_files": len(self.images.problems) + sum(self.images.skipped.values()),
            # balanced accuracy from the files' form alone, .5 is chance
            "told_apart_by": {name: round(score, 4) for name, score in self._giveaways().items()},
        }

    def seen_in_training(self, indices: np.ndarray) -> np.ndarray:
        """(n,) bool: whether each image, or a twin of it, is in this split's training part."""
        assert self.images is not None and self.split is not None
        return seen_in_training(self.images, self.split, indices)


def to_float(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """(N, S, S, 3) uint8 -> (N, 3, S, S) in [0, 1], channels last in memory. The published scaling: x / 255."""
    return pixels.permute(0, 3, 1, 2).to(dtype, copy=True).div_(255)
