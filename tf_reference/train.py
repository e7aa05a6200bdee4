"""Trains the published model, draws its curves, saves it. Source: paper sections 10.2, 10.6, 10.7 and 10.9."""

import io
import json
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from tf_reference.data import InputError, Splits, reason_of
from tf_reference.model import EPOCHS, LR_DECAY, PATIENCE, build_model, compile_model, published_callbacks

MODEL_NAME = "ai_imageclassifier"


def enable_memory_growth() -> int:
    """Lets TensorFlow take a GPU's memory as it needs it. Returns the number of GPUs. Source: paper section 10.2."""
    gpus = tf.config.experimental.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    return len(gpus)


def seed_everything(seed: int) -> None:
    """Fixes the initial weights and the dropout.

    Not ``tf.random.set_seed``: with it the augmentation, mapped one batch after the other, repeats itself in every
    epoch, which the published code, unseeded, does not do. The augmentation's draws stay TensorFlow's own.
    """
    random.seed(seed)  # Keras draws its initialisers' and dropout's seeds from here
    np.random.seed(seed)  # noqa: NPY002 - the generator that Keras uses


def train(
    splits: Splits,
    weights: str | None = "imagenet",
    epochs: int = EPOCHS,
    patience: int = PATIENCE,
    resume: str | None = None,
    initial_epoch: int = 0,
    verbose: int | str = "auto",
    lr_decay: float = LR_DECAY,
) -> tuple[keras.Model, dict[str, list[float]]]:
    """Trains as published and returns the model with its best epoch's weights, and Keras's history.

    Args:
        splits: what to train on, validate on.
        weights: what training starts from; see :func:`tf_reference.model.build_model`.
        epochs: the number of the last one.
        patience: epochs without a lower val_loss after which training stops.
        resume: a ``.keras`` file to resume from, with its optimizer.
        initial_epoch: epochs that file has behind it.
        verbose: Keras's.
        lr_decay: factor on the learning rate at the start of every epoch, the first included.
    """
    if resume:
        model = load_model(resume)
        if getattr(model, "optimizer", None) is None:
            raise InputError(f"{resume} holds no optimizer to resume with: start anew from its weights")
    else:
        model = compile_model(_build(weights))
    history = model.fit(
        splits.train,
        validation_data=splits.cv,
        epochs=epochs,
        initial_epoch=initial_epoch,
        callbacks=published_callbacks(patience, lr_decay),
        shuffle=False,  # Keras 3 warns of its default, which means nothing for a tf.data.Dataset
        verbose=verbose,
    )
    return model, {name: [float(value) for value in values] for name, values in history.history.items()}


def _build(weights: str | None) -> keras.Model:
    try:
        return build_model(weights)
    except Exception as error:  # Keras raises a bare Exception where it cannot fetch a file
        reason = reason_of(error)
        if weights == "imagenet":
            raise InputError(
                f"Keras could not fetch its ImageNet weights ({reason}): give a file (--weights FILE) or train from "
                "random weights (--weights none)"
            ) from error
        raise InputError(
            f"--weights {weights}: not weights of keras.applications.ResNet50 without top ({reason})"
        ) from error


def save(model: keras.Model, folder: Path, saved_model: bool = True) -> Path:
    """Writes ``ai_imageclassifier.keras`` and, as a SavedModel, ``ai_imageclassifier/``; returns the former.

    Keras 3 forced this to change: ``save(..., save_format="tf")`` is gone. ``.keras`` is what ``load_model`` reads
    back, with the optimizer; ``export`` writes the SavedModel, for inference alone.
    """
    path = folder / f"{MODEL_NAME}.keras"
    with _replacing(path) as temporary:
        model.save(temporary)
    if saved_model:
        # its list of signatures is not printed; verbose=False, which says the same, is younger than Keras 3.5
        with _replacing(folder / MODEL_NAME) as temporary, redirect_stdout(io.StringIO()):
            model.export(temporary)
    return path


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A file or folder to write, of the same suffix, that takes ``path``'s place when the block ends well.

    A folder of results is one run's, so one name does: what a killed run left is written over by the next.
    """
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    _remove(temporary)
    try:
        yield temporary
        if temporary.is_dir():
            _remove(path)  # a folder takes no other one's place
        temporary.replace(path)
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def load_model(path: str | Path) -> keras.Model:
    """Reads a ``.keras`` file without running code from it.

    Raises:
        InputError: no such file, or not a Keras model.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no model {path}: expected a .keras file, as fit writes it")
    try:
        return keras.models.load_model(path, safe_mode=True)
    except Exception as error:  # Keras raises a dozen kinds here
        raise InputError(f"{path} is no Keras model that can be read safely ({reason_of(error)})") from error


def plot_history(history: dict[str, list[float]], path: Path) -> None:
    """Accuracy and loss over the epochs. Source: paper section 10.7; written to a file where the paper shows it."""
    plt.figure(figsize=(12, 4))

    # Plot training & validation accuracy values
    plt.subplot(1, 2, 1)
    plt.plot(history["accuracy"])
    plt.plot(history["val_accuracy"])
    plt.title("Model accuracy")
    plt.xlabel("Epoch")
    plt.ylabel("Accuracy")
    plt.legend(["Train", "Validation"], loc="upper left")
    # Plot training & validation loss values
    plt.subplot(1, 2, 2)
    plt.plot(history["loss"])
    plt.plot(history["val_loss"])
    plt.title("Model loss")
    plt.xlabel("Epoch")
    plt.ylabel("Loss")
    plt.legend(["Train", "Validation"], loc="upper left")

    plt.tight_layout()
    plt.savefig(path)
    plt.close()


def write_json(path: Path, content: object) -> None:
    """Writes JSON, whole or not at all."""
    with _replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
