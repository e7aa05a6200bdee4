"""One engine of this project in a process of its own: python -m lightning_cifake.benchmark.worker SPEC

SPEC is a JSON object: ``engine``, ``task`` (train or answer), ``threads``, ``device``, ``precision``, and for training
``batch_size``, ``data`` (a folder with FAKE/ and REAL/), ``scratch`` (an empty folder), ``network`` (class_path and
init_args) and ``image_size``, for answers ``model``. What it is asked, and replies, is in :mod:`turns`. Lightning
trains by the command ``fit`` itself, which :mod:`engines` starts as a user would.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lightning_cifake.benchmark.turns import Answer, Replies, Turns, answer_questions

Answerer = tuple[Answer, int, Answer | None]  # as asked, its images' side, in float32 where that is another


def train_torch(spec: dict[str, Any], replies: Replies) -> None:
    """A bare loop: the network, the optimizer, the loss, the augmentation and the accuracy, no Lightning."""
    import torch
    from torch.nn import functional as F

    from lightning_cifake.data.augment import PublishedAugmentation
    from lightning_cifake.data.datamodule import to_float
    from lightning_cifake.data.decode import load_images
    from lightning_cifake.data.loader import IndexLoader
    from lightning_cifake.networks.registry import build_network
    from lightning_cifake.training.keras_adam import KerasAdam

    turns = Turns(replies, _synchroniser(spec["device"]))
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    device, half = torch.device(spec["device"]), _half(spec["precision"])
    data = load_images(spec["data"], spec["image_size"], cache_dir=Path(spec["scratch"]))
    pixels = torch.from_numpy(data.images).to(device)
    labels = torch.from_numpy(data.labels.astype(np.float32)).to(device)
    loader = IndexLoader(np.arange(len(data)), spec["batch_size"], shuffle=True)
    network = build_network(spec["network"]).to(device).train()
    optimizer = KerasAdam(network.parameters())
    augment = PublishedAugmentation()
    scaler = torch.amp.GradScaler(device.type, enabled=half == torch.float16)
    epoch = 0
    while True:
        loader.set_epoch(epoch)
        right = torch.zeros((), device=device)
        for batch in loader:
            index = batch.to(device)
            images, expected = augment(to_float(pixels[index])), labels[index]
            turns.batch_is_here()
            optimizer.zero_grad()
            with torch.autocast(device.type, half or torch.bfloat16, enabled=half is not None):
                logits = network(images)
                loss = F.binary_cross_entropy_with_logits(logits.float(), expected)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            right += ((logits.detach() > 0) == (expected > 0.5)).sum()
            turns.step_ended(len(batch))
        turns.epoch_ended()
        epoch += 1


def _synchroniser(device: str) -> Callable[[], None]:
    import torch

    return torch.cuda.synchronize if device == "cuda" else lambda: None


def _half(precision: str) -> Any:
    import torch

    return {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}.get(precision)


def answer_torch(spec: dict[str, Any]) -> Answerer:
    """The network as a plain module."""
    import torch

    from lightning_cifake.deploy.predict import load_classifier

    torch.set_num_threads(spec["threads"])
    classifier = load_classifier(spec["model"])
    return _answerer(classifier.network, spec, classifier.image_size)


def answer_lightning(spec: dict[str, Any]) -> Answerer:
    """A checkpoint through Lightning's own model: in float32 on the CPU as ``predict --ckpt_path`` asks it, else as the
    Trainer of ``test`` does."""
    import torch

    from lightning_cifake.deploy.predict import ClassifierModel, load_classifier

    torch.set_num_threads(spec["threads"])
    model = ClassifierModel(load_classifier(spec["model"]))
    if spec["device"] == "cpu" and _half(spec["precision"]) is None:
        return lambda images: model.prob_real(list(images)), model.image_size, None
    return _answerer(model.classifier, spec, model.image_size)


def _answerer(network: Any, spec: dict[str, Any], size: int) -> Answerer:
    """A module that gives logits, asked on its device in the precision that is measured, and in float32."""
    import torch

    from lightning_cifake.data.datamodule import to_float

    network.to(spec["device"]).eval()
    half = _half(spec["precision"])

    def ask(images: np.ndarray, half: Any) -> np.ndarray:
        pixels = torch.from_numpy(images).to(spec["device"])
        with torch.inference_mode(), torch.autocast(spec["device"], half, enabled=half is not None):
            logits = network(to_float(pixels))
        return logits.float().sigmoid().cpu().numpy()

    return lambda images: ask(images, half), size, half and (lambda images: ask(images, None))


def answer_onnxruntime(spec: dict[str, Any]) -> Answerer:
    """An exported model through Detector, as ``predict --model`` asks it, on the CPU."""
    from lightning_cifake.deploy.detector import Detector

    detector = Detector(spec["model"], spec["threads"])
    return lambda images: detector.prob_real(list(images)), detector.image_size, None


TRAIN = {"torch": train_torch}
ANSWER = {
    "torch": answer_torch,
    "lightning": answer_lightning,
    "onnxruntime": answer_onnxruntime,
    "onnxruntime-int8": answer_onnxruntime,
}


def main() -> int:
    spec: dict[str, Any] = json.loads(sys.argv[1])
    replies = Replies()
    os.environ.setdefault("OMP_NUM_THREADS", str(spec["threads"]))
    if spec["task"] == "train":
        TRAIN[spec["engine"]](spec, replies)
    else:
        answer_questions(replies, *ANSWER[spec["engine"]](spec))
    return 0


if __name__ == "__main__":
    sys.exit(main())
