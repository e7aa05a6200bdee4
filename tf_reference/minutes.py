"""Trains the reference and tells of every validation as it goes: python -m tf_reference.minutes SPEC

SPEC is a JSON object: ``data`` (a folder), ``split`` (SPLIT.json, as ``fit --split`` takes it), ``seed`` and
``passes``, how often an epoch is validated: by ``fit`` itself at its end, and evenly between. Training is as published
but for the early stopping, which is left out: random weights, the paper's input pipeline, ``fit``. Standard output has
a JSON object a line, with times of ``time.monotonic``: {"event": "training"} as training begins, and goes on after a
pass, and {"event": "pass"} as one ends.
"""

import json
import os
import sys
import time
from pathlib import Path

from tf_reference.benchmark import begin, send


def main() -> int:
    spec, replies = begin()
    os.environ.setdefault("MPLBACKEND", "Agg")
    import keras

    from tf_reference import data, model, train

    def tell(**told) -> None:
        send(replies, told)

    class Passes(keras.callbacks.Callback):
        """Validates within an epoch, and tells of these passes and of the epoch's own."""

        def __init__(self, steps: int, every: int, images: int, cv):
            super().__init__()
            self.steps, self.every, self.images, self.cv = steps, every, images, cv
            self.epoch = self.step = 0  # epochs that have ended, steps of this one
            self.waiting = True  # for the first training batch, or the first one after a pass

        def on_train_batch_begin(self, batch, logs=None):
            if self.waiting:
                self.waiting = False
                first = {"batch_size": data.BATCH_SIZE, "epochs": model.EPOCHS} if not self.epoch + self.step else {}
                tell(event="training", at=time.monotonic(), **first)

        def on_train_batch_end(self, batch, logs=None):
            self.step += 1
            if self.step % self.every == 0 and self.step + self.every <= self.steps:  # the epoch's last is fit's own
                began = time.monotonic()
                accuracy = self.model.evaluate(self.cv, verbose=0, return_dict=True)["accuracy"]
                self.told(began, accuracy, extra=True)

        def on_test_begin(self, logs=None):
            self.began = time.monotonic()

        def on_test_end(self, logs=None):
            self.told(self.began, logs["accuracy"], extra=False)

        def on_epoch_end(self, epoch, logs=None):
            self.epoch, self.step = epoch + 1, 0

        def told(self, began, accuracy, extra):
            trained = self.epoch * self.images + min(self.step * data.BATCH_SIZE, self.images)
            ended = time.monotonic()
            tell(event="pass", began=began, ended=ended, images=trained, val_accuracy=float(accuracy), extra=extra)
            self.waiting = True

    train.enable_memory_growth()
    train.seed_everything(spec["seed"])
    splits = data.from_split(spec["data"], json.loads(Path(spec["split"]).read_text()), spec["seed"])
    steps = splits.sizes[0]
    passes = Passes(steps, max(1, steps // spec["passes"]), len(splits.files["train"]), splits.cv)
    schedule, _ = model.published_callbacks()
    model.compile_model(model.build_model(None)).fit(
        splits.train,
        validation_data=splits.cv,
        epochs=model.EPOCHS,
        callbacks=[schedule, passes],
        shuffle=False,
        verbose=0,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
