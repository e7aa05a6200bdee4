"""What the field tries for generators that a detector was never shown, tried at 32 px.

    python docs/results/other_generators.py --data.root CIFAKE.zip --others DDPM WGAN --output other-generators.json

Each row is a score, higher for what looks more like a photograph. Its figures are of photographs of CIFAKE's own test
part against one kind of picture: CIFAKE's generated test images (without those that were trained on), the images of
each folder in `--others`, and, as a control, the same photographs saved as JPEG once more: a score that tells those
apart sees the saving and not the generator. The figures: AUROC and the share of the pictures found at 1 % false alarms,
with 95 % bootstrap intervals over the images; of a released model also the share called AI at its own threshold. No
interval says how much another seed of a training would change.

- The released models' logits.
- One-class views, fitted on a fifth of the photographs trained on: the distance (Mahalanobis) in the descriptors of
  the network `features`, an isolation forest on the same, and the distance in the last features of a trained `compact`
  (`--checkpoint`).
- Small networks (`compact` of width 16), each trained once: on photographs against CIFAKE's generated images, and
  against what is made of the photographs themselves: their reconstructions by a small autoencoder, their re-sampling
  (twice as large and back), and both; each alone and with CIFAKE's generated images beside. What is made is saved as
  JPEG with quality 75, as all of CIFAKE is, so that the missing traces of JPEG do not tell it.
"""

import argparse
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from recording import recorded
from scipy.stats import rankdata
from sklearn.covariance import LedoitWolf
from sklearn.ensemble import IsolationForest
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from lightning_cifake import Detector
from lightning_cifake.classes import FAKE, REAL
from lightning_cifake.data.decode import load_images
from lightning_cifake.data.protocols import make_split
from lightning_cifake.deploy.inputs import find_images
from lightning_cifake.deploy.predict import load_classifier
from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.figures import figures_of
from lightning_cifake.evaluation.intervals import wilson_interval
from lightning_cifake.evaluation.predictions import Predictions
from lightning_cifake.files import public_name
from lightning_cifake.networks.compact import CompactCNN
from lightning_cifake.networks.features import FeatureDetector
from lightning_cifake.shipped import MODELS
from lightning_cifake.text import printable

QUALITY = 75
SIZE = 32
FIGURES = ("auroc", "recall_fake_at_1")
SAVED_AGAIN = "photographs, saved again"
Score = Callable[[np.ndarray], np.ndarray]
"""(N, 32, 32, 3) uint8 -> (N,), the higher the more a photograph; or (N, D) features."""


def floats(images: np.ndarray) -> Tensor:
    """(N, S, S, 3) uint8 -> (N, 3, S, S) in [0, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def batches(model: Callable[[Tensor], Tensor], images: np.ndarray, size: int = 250) -> np.ndarray:
    with torch.inference_mode():
        return np.concatenate([model(floats(images[at : at + size])).numpy() for at in range(0, len(images), size)])


def as_jpeg(images: np.ndarray) -> np.ndarray:
    saved = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=QUALITY)
        saved.append(np.asarray(Image.open(file)))
    return np.stack(saved)


def resampled(images: np.ndarray) -> np.ndarray:
    """Twice as large and back, both ways by a filter drawn for each image."""
    filters = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
    draw = np.random.default_rng(0)
    made = []
    for image in images:
        up, down = draw.choice(3, 2)
        large = Image.fromarray(image).resize((64, 64), filters[up])
        made.append(np.asarray(large.resize((32, 32), filters[down])))
    return as_jpeg(np.stack(made))


class Autoencoder(nn.Module):
    """32x32x3 to 8x8x32 and back: a sixth of the numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 4, 2, 1), nn.ReLU(),
            nn.Conv2d(64, 64, 4, 2, 1), nn.ReLU(), nn.Conv2d(64, 8, 1), nn.Conv2d(8, 64, 3, padding=1), nn.ReLU(),
            nn.ConvTranspose2d(64, 64, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(),
            nn.Conv2d(32, 3, 3, padding=1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def reconstructed(images: np.ndarray, epochs: int) -> np.ndarray:
    """Of an autoencoder that is trained on these images."""
    torch.manual_seed(0)
    model = Autoencoder()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for epoch in range(epochs):
        say(f"autoencoder: epoch {epoch + 1} of {epochs}")
        for places in torch.randperm(len(images)).split(100):
            batch = floats(images[places.numpy()])
            loss = nn.functional.mse_loss(model(batch), batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    say(f"autoencoder: mean squared error {loss.item():.5f}")
    made = batches(model, images)
    return as_jpeg((made.transpose(0, 2, 3, 1) * 255).round().astype(np.uint8))


def trained(name: str, real: np.ndarray, fake: np.ndarray, epochs: int) -> nn.Module:
    """A small network that tells these apart; both classes weigh the same."""
    torch.manual_seed(0)
    model = CompactCNN(width=16).train()
    images = np.concatenate([fake, real])
    labels = torch.from_numpy(np.repeat([0.0, 1.0], [len(fake), len(real)])).float()
    weight = torch.tensor(len(fake) / len(real))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = epochs * -(-len(images) // 125)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    for epoch in range(epochs):
        say(f"{name}: epoch {epoch + 1} of {epochs}, of {len(images):,} images")
        for places in torch.randperm(len(images)).split(125):
            batch = floats(images[places.numpy()])
            if torch.rand(()) < 0.5:
                batch = batch.flip(3)
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(batch)
            loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), labels[places], pos_weight=weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def descriptors() -> Score:
    """(N, D) of the network `features`, none fitted; of the same array once."""
    describe = FeatureDetector().describe.eval()
    known: dict[int, np.ndarray] = {}

    def of(images: np.ndarray) -> np.ndarray:
        if id(images) not in known:
            known[id(images)] = batches(
                lambda x: torch.cat([each(x.double()) for each in describe.values()], 1), images
            )
        return known[id(images)]

    return of


def last_features(checkpoint: Path) -> Score:
    """(N, D) behind the mean over the last maps."""
    network = load_classifier(checkpoint).network.eval()
    return lambda images: batches(network._features, images).astype(np.float64)


def distance(features: Callable[[np.ndarray], np.ndarray], real: np.ndarray) -> Score:
    """Less the Mahalanobis distance from what photographs have, each feature at a spread of 1: LedoitWolf shrinks
    towards one spread for all, which would leave out whatever has small numbers."""
    known = features(real)
    scaled = StandardScaler().fit(known)
    found = LedoitWolf().fit(scaled.transform(known))
    return lambda images: -found.mahalanobis(scaled.transform(features(images)))


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def figures(fake: np.ndarray, real: np.ndarray) -> dict[str, Any]:
    """Of the scores' order alone: they are no logits, and far out P(REAL) would be the same for many."""
    order = rankdata(np.concatenate([fake, real]))
    logits = 8 * order / len(order) - 4
    labels = np.repeat([FAKE, REAL], [len(fake), len(real)])
    known = figures_of(Predictions("", [""] * len(labels), labels, logits.astype(np.float32)))["figures"]
    return {name: rounded(known[name]["value"], known[name]["interval"]) for name in FIGURES}


def share(called: np.ndarray) -> dict[str, Any]:
    """(N,) bool -> how many of N, with Wilson's interval."""
    return rounded(called.mean(), wilson_interval(int(called.sum()), len(called)))


def rounded(value: Any, interval: Any) -> dict[str, Any]:
    return {
        "value": None if value is None else round(float(value), 4),
        "interval": None if interval is None else np.round(interval, 4).tolist(),
    }


def pictures(folder: Path) -> np.ndarray:
    """(N, 32, 32, 3) uint8 of every image below a folder."""
    made = []
    for path in find_images([str(folder)]):
        try:
            with Image.open(str(path)) as image:
                made.append(np.asarray(image.convert("RGB")))
        except OSError as error:
            raise UserError(f"{printable(path)} cannot be read as an image") from error
        if made[-1].shape != (SIZE, SIZE, 3):
            height, width = made[-1].shape[:2]
            raise UserError(f"{printable(path)}: expected {SIZE}x{SIZE} pixels, got {width}x{height}")
    return np.stack(made)


def record(given: argparse.Namespace) -> dict[str, Any]:
    if min(given.test, given.train, given.epochs) < 1:
        raise UserError("--test, --train, --epochs: expected at least 1 each")
    others: dict[str, np.ndarray] = {}
    for folder in given.others:
        resolved = folder.resolve()
        others[resolved.parent.name if resolved.name.upper() == "FAKE" else resolved.name] = pictures(folder)
    detectors = {name: Detector(name) for name in given.models}
    last = None if given.checkpoint is None else last_features(given.checkpoint)
    images = load_images(given.root)
    split = make_split(images, "official", pool="all")
    known = np.union1d(images.groups[split.train], images.groups[split.val])
    unseen = split.test[~np.isin(images.groups[split.test], known)]
    draw = np.random.default_rng(0)

    def some(places: np.ndarray, label: int, count: int) -> np.ndarray:
        """In the order drawn: names count through what images show, and so would every fifth of a sorted sample."""
        of_class = places[images.labels[places] == label]
        return images.images[draw.choice(of_class, min(count, len(of_class)), replace=False)]

    photographs = some(unseen, REAL, given.test)
    test = {"CIFAKE": some(unseen, FAKE, given.test), **others, SAVED_AGAIN: as_jpeg(photographs)}
    real, fake = some(split.train, REAL, given.train), some(split.train, FAKE, given.train)
    rows: dict[str, Any] = {}

    def add(name: str, score: Score) -> None:
        of_real = score(photographs)
        rows[name] = {kind: figures(score(each), of_real) for kind, each in test.items()}
        for kind, row in rows[name].items():
            say(f"{name}: {kind}: " + ", ".join(f"{key} {row[key]['value']} {row[key]['interval']}" for key in row))

    for name, detector in detectors.items():
        answers = {kind: answers_of(detector, each) for kind, each in {"REAL": photographs, **test}.items()}
        row = {kind: figures(logits, answers["REAL"][1]) for kind, (_, logits) in answers.items() if kind != "REAL"}
        for kind in row:
            row[kind]["called_fake"] = share(answers[kind][0])
        rows[f"released {name}"] = row
        say(f"released {name}: {json.dumps(row)}")
    described, few = descriptors(), real[: max(2, len(real) // 5)]
    add("one class: distance in the descriptors", distance(described, few))
    forest = IsolationForest(n_estimators=300, random_state=0).fit(described(few))
    add("one class: isolation forest on the descriptors", lambda asked: forest.score_samples(described(asked)))
    if last is not None:
        add("one class: distance in the last features of compact", distance(last, few))
    made = {"reconstructions": reconstructed(real, given.epochs), "re-sampling": resampled(real)}
    made["both"] = np.concatenate(list(made.values()))
    against = {"generated images": fake}
    for name, extra in made.items():
        against |= {name: extra, f"{name} and generated images": np.concatenate([extra, fake])}
    for name, shown in against.items():
        model = trained(name, real, shown, given.epochs)
        add(f"network: {name}", lambda asked, m=model: batches(m, asked))
    return {
        "data": public_name(images.name),
        "data_digest": images.digest,
        "photographs": len(photographs),
        "images": {name: len(each) for name, each in test.items()},
        "trained_on": {"REAL": len(real), "FAKE": len(fake), "one_class": len(few), "epochs": given.epochs},
        "released": {name: detector.sha256 for name, detector in detectors.items()},
        "rows": rows,
    }


def answers_of(detector: Detector, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) bool, called AI; (N,) logits."""
    asked = [detector.run(images[at : at + 250]) for at in range(0, len(images), 250)]
    prob, logits = (np.concatenate(each) for each in zip(*asked, strict=True))
    return prob <= np.float32(detector.threshold), logits


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data.root", dest="root", required=True, help="CIFAKE with its parts: a folder or a zip")
    parser.add_argument(
        "--others", nargs="+", type=Path, required=True, help="folders of generated images of 32x32, a generator each"
    )
    parser.add_argument("--models", nargs="*", default=list(MODELS), help="released ones by name (default: all)")
    parser.add_argument("--checkpoint", type=Path, help="of compact, for its last features (default: no such row)")
    parser.add_argument("--test", type=int, default=2000, help="test images of each class (default: %(default)s)")
    parser.add_argument(
        "--train", type=int, default=10_000, help="training images of each class (default: %(default)s)"
    )
    parser.add_argument("--epochs", type=int, default=6, help="of each training (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="the record, as JSON (default: it is only said)")
    return recorded(record, parser.parse_args(arguments), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
