"""What the field tries for generators that a detector was never shown, tried at 32 px.

    python docs/results/other_generators.py --data.root CIFAKE.zip --others DDPM WGAN --output other-generators.json

Each row is a score of "photograph", and its AUROC with a 95 % bootstrap interval (both classes drawn anew): photographs
of CIFAKE's own test part against its generated images, and against those of each folder in `--others`.

- The released models' logits.
- One-class views, fitted on a fifth of the photographs trained on: the distance (Mahalanobis) in the descriptors of
  the network `features`, an isolation forest on the same, and the distance in the last features of a trained `compact`
  (`--checkpoint`).
- Small networks (`compact` of width 16) trained on photographs against what is made from photographs: their
  reconstructions by a small autoencoder, and their re-sampling (twice as large and back); each once alone and once with
  CIFAKE's own generated images beside. What is made is saved as JPEG with quality 75 as all of CIFAKE is, so that the
  missing traces of JPEG do not tell it.
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
from sklearn.covariance import LedoitWolf
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from lightning_cifake import Detector
from lightning_cifake.data.decode import load_images
from lightning_cifake.data.protocols import make_split
from lightning_cifake.deploy.inputs import find_images
from lightning_cifake.deploy.predict import load_classifier
from lightning_cifake.errors import UserError
from lightning_cifake.files import public_name, write_whole
from lightning_cifake.machine import processor
from lightning_cifake.networks.compact import CompactCNN
from lightning_cifake.networks.features import FeatureDetector
from lightning_cifake.shipped import MODELS

QUALITY = 75
DRAWS = 1000
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
    """Twice as large and back, each by a filter drawn for the image."""
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
    for _ in range(epochs):
        for places in torch.randperm(len(images)).split(100):
            batch = floats(images[places.numpy()])
            loss = nn.functional.mse_loss(model(batch), batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    say(f"autoencoder: mean squared error {loss.item():.5f}")
    made = batches(model, images)
    return as_jpeg((made.transpose(0, 2, 3, 1) * 255).round().astype(np.uint8))


def trained(real: np.ndarray, fake: np.ndarray, epochs: int) -> nn.Module:
    """A small network that tells these apart."""
    torch.manual_seed(0)
    model = CompactCNN(width=16).train()
    images = np.concatenate([fake, real])
    labels = torch.from_numpy(np.repeat([0.0, 1.0], [len(fake), len(real)])).float()
    weight = torch.tensor(len(fake) / len(real))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = epochs * -(-len(images) // 125)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    for _ in range(epochs):
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
    """Less the Mahalanobis distance from what photographs have."""
    found = LedoitWolf().fit(features(real))
    return lambda images: -found.mahalanobis(features(images))


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def auroc(fake: np.ndarray, real: np.ndarray) -> dict[str, Any]:
    """With the percentiles of DRAWS bootstrap samples, the classes drawn by themselves."""
    labels = np.repeat([0, 1], [len(fake), len(real)])
    draw = np.random.default_rng(0)
    drawn = [
        roc_auc_score(labels, np.concatenate([draw.choice(fake, len(fake)), draw.choice(real, len(real))]))
        for _ in range(DRAWS)
    ]
    value = roc_auc_score(labels, np.concatenate([fake, real]))
    return {"auroc": round(float(value), 4), "interval": np.percentile(drawn, [2.5, 97.5]).round(4).tolist()}


def record(given: argparse.Namespace) -> dict[str, Any]:
    images = load_images(given.root)
    split = make_split(images, "official", pool="all")
    draw = np.random.default_rng(0)

    def some(part: str, label: int, count: int) -> np.ndarray:
        places = getattr(split, part)
        of_class = np.sort(places[images.labels[places] == label])
        return images.images[np.sort(draw.choice(of_class, min(count, len(of_class)), replace=False))]

    test = {"REAL": some("test", 1, given.test), "CIFAKE": some("test", 0, given.test)}
    for folder in given.others:
        name = folder.parent.name if folder.name.upper() == "FAKE" else folder.name
        test[name] = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in find_images([str(folder)])])
    real, fake = some("train", 1, given.train), some("train", 0, given.train)
    rows: dict[str, Any] = {}

    def add(name: str, score: Score) -> None:
        scores = {kind: score(each) for kind, each in test.items()}
        rows[name] = {kind: auroc(each, scores["REAL"]) for kind, each in scores.items() if kind != "REAL"}
        say(f"{name}: " + ", ".join(f"{kind} {row['auroc']:.3f} {row['interval']}" for kind, row in rows[name].items()))

    for name in given.models:
        detector = Detector(name)
        add(
            f"released {name}",
            lambda asked, model=detector: np.concatenate(
                [model.run(asked[at : at + 250])[1] for at in range(0, len(asked), 250)]
            ),
        )
    described, few = descriptors(), real[::5]
    add("one class: distance in the descriptors", distance(described, few))
    forest = IsolationForest(n_estimators=300, random_state=0).fit(described(few))
    add("one class: isolation forest on the descriptors", lambda asked: forest.score_samples(described(asked)))
    if given.checkpoint is not None:
        add("one class: distance in the last features of compact", distance(last_features(given.checkpoint), few))
    made = {"reconstructions": reconstructed(real, given.epochs), "re-sampling": resampled(real)}
    made["both"] = np.concatenate(list(made.values()))
    for name, extra in made.items():
        for beside in (False, True):
            model = trained(real, np.concatenate([extra, fake]) if beside else extra, given.epochs)
            add(
                f"network, {name}{', and generated images' if beside else ''}", lambda asked, m=model: batches(m, asked)
            )
    return {
        "data": public_name(images.name),
        "data_digest": images.digest,
        "photographs": len(test["REAL"]),
        "images": {name: len(each) for name, each in test.items() if name != "REAL"},
        "trained_on": {"REAL": len(real), "FAKE": len(fake), "epochs": given.epochs},
        "machine": processor(),
        "rows": rows,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data.root", dest="root", required=True)
    parser.add_argument("--others", nargs="+", type=Path, required=True, help="folders of generated images of 32x32")
    parser.add_argument("--models", nargs="*", default=list(MODELS), help="released ones by name")
    parser.add_argument("--checkpoint", type=Path, help="of compact")
    parser.add_argument("--test", type=int, default=2000, help="test images of each class")
    parser.add_argument("--train", type=int, default=20_000, help="training images of each class")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--output", type=Path, help="the record, as JSON")
    given = parser.parse_args(arguments)
    try:
        made = record(given)
        if given.output is not None:
            write_whole(given.output, json.dumps(made, indent=1) + "\n")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
