"""The reference as one engine of a benchmark, in a process of its own: python -m tf_reference.benchmark SPEC

Engine ``tf`` is the published system: its own input pipeline, ``fit``, ``predict``. ``tf-tuned`` is the same network
with the settings that make TensorFlow fastest: images decoded once and kept, augmentation in whole batches, XLA where
it is asked for, a traced function instead of ``predict``. ``tf-tuned-small`` is that in smaller batches.

SPEC is a JSON object; a JSON object a line comes in on standard input, and one goes out: see ``serve`` and ``Turns``.
"""

import json
import os
import sys
import time
from pathlib import Path

POLICIES = {"16-mixed": "mixed_float16", "bf16-mixed": "mixed_bfloat16"}


class Turns:
    """Works when it is asked to and waits between: {"first": "step"}, {"first": "epoch"} or {"steps": n}.

    A step lasts from the end of the one before it to its own end; the first of an epoch is left out.
    """

    def __init__(self, replies):
        self.replies = replies
        self.before = None
        self._wait()

    def step_ended(self, images: int) -> None:
        now = time.perf_counter()
        if self.before is not None:
            self.taken["steps"] += 1
            self.taken["images"] += images
            self.taken["seconds"] += now - self.before
        self.before = now
        if self.taken["steps"] == self.asked.get("steps") or self.asked.get("first") == "step":
            self._reply()

    def epoch_ended(self) -> None:
        self.before = None
        if self.asked.get("first") == "epoch":
            self._reply()

    def _reply(self) -> None:
        send(self.replies, self.taken)
        self._wait()

    def _wait(self) -> None:
        line = sys.stdin.readline()
        if not line:
            send(self.replies, {"peak_mib": peak_memory()})
            os._exit(0)
        self.asked = json.loads(line)
        self.taken = {"steps": 0, "images": 0, "seconds": 0.0, "waiting": None}
        if self.before is not None:
            self.before = time.perf_counter()


def send(replies, reply: dict) -> None:
    print(json.dumps(reply), file=replies, flush=True)


def peak_memory() -> float | None:
    """MiB; what Linux tells of this process alone."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), None)


def train(spec: dict, replies) -> None:
    import keras

    from tf_reference import model as published_model

    turns = Turns(replies)

    class Ticks(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            turns.step_ended(spec["batch_size"])

        def on_epoch_end(self, epoch, logs=None):
            turns.epoch_ended()

    model = published_model.compile_model(published_model.build_model(None))
    if spec.get("xla"):
        model.compile(optimizer=model.optimizer, loss=model.loss, metrics=["accuracy"], jit_compile=True)
    data = published_data(spec) if spec["engine"] == "tf" else cached_data(spec)
    # a million epochs of a dataset: what is measured ends long before
    model.fit(data, epochs=1_000_000, callbacks=[Ticks()], shuffle=False, verbose=0)


def published_data(spec: dict):
    from tf_reference import data

    if spec["batch_size"] == data.BATCH_SIZE:
        return data.published(spec["data"], seed=0).train
    files, labels = data._files_and_labels(spec["data"], seed=0)
    batches = data.data_from_files(files, labels, shuffle=True, seed=0, batch_size=spec["batch_size"])
    return batches.map(lambda x, y: (x / 255, y)).map(data.augment_data)


def cached_data(spec: dict):
    """Decoded once, as bytes; shuffled over all, and scaled and augmented in batches."""
    import tensorflow as tf

    from tf_reference import data

    files, labels = data._files_and_labels(spec["data"], seed=0)
    decoded = data.data_from_files(files, labels).map(lambda x, y: (tf.cast(x, tf.uint8), y))
    images = tf.concat([x for x, _ in decoded], 0)
    batches = tf.data.Dataset.from_tensor_slices((images, tf.constant(labels, tf.int32))).shuffle(len(labels), seed=0)
    batches = batches.batch(spec["batch_size"], drop_remainder=True)  # one shape, so that nothing is traced twice
    scaled = batches.map(lambda x, y: (tf.cast(x, tf.float32) / 255, y), num_parallel_calls=tf.data.AUTOTUNE)
    return scaled.map(data.augment_data, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def answers(spec: dict, model):
    """(N, S, S, 3) uint8 -> (N,) P(REAL) of a model."""
    import tensorflow as tf

    if spec["engine"] == "tf":

        def predict(images):
            return model.predict(images.astype("float32") / 255, batch_size=len(images), verbose=0)[:, 0]

        return predict

    @tf.function(reduce_retracing=True, jit_compile=bool(spec.get("xla")))
    def traced(images):
        return model(tf.cast(images, tf.float32) / 255, training=False)[:, 0]

    return lambda images: traced(tf.constant(images)).numpy()


def in_policy(model, policy: str):
    """The model with every layer in a dtype policy: a file's layers keep the one that they were saved with."""
    import keras

    made = keras.models.model_from_json(json.dumps(with_policy(json.loads(model.to_json()), policy)))
    made.set_weights(model.get_weights())
    return made


def with_policy(config, policy: str):
    """A model's configuration in which every layer computes in that policy."""
    if isinstance(config, list):
        return [with_policy(each, policy) for each in config]
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "DTypePolicy":
        return {**config, "config": {**config["config"], "name": policy}}
    return {name: with_policy(each, policy) for name, each in config.items()}


def serve(spec: dict, replies) -> None:
    """{"batch", "repeats"} -> seconds of each; {"file"} or {"images": FILE.npy} -> prob_real.

    ``"exact": true`` beside ``images`` asks in float32, whatever precision is measured.
    """
    import numpy as np

    from tf_reference.train import load_model

    model = load_model(spec["model"])
    size = int(model.input_shape[1])
    exact = answers(spec, model)
    policy = POLICIES.get(spec["precision"])
    answer = answers(spec, in_policy(model, policy)) if policy else exact
    for line in sys.stdin:
        asked = json.loads(line)
        if "file" in asked:
            from tf_reference.data import _load_image

            image = _load_image(asked["file"], "accurate").numpy().round().astype(np.uint8)
            send(replies, {"prob_real": float(answer(image[None])[0])})
        elif "images" in asked:
            images = np.load(asked["images"], allow_pickle=False)
            ask = exact if asked.get("exact") else answer
            parts = [ask(images[at : at + 256]) for at in range(0, len(images), 256)]
            send(replies, {"prob_real": np.concatenate(parts).astype(float).tolist()})
        else:
            images = np.random.default_rng(0).integers(0, 256, (asked["batch"], size, size, 3), np.uint8)
            answer(images)  # the first of a size is traced
            seconds = []
            for _ in range(asked["repeats"]):
                started = time.perf_counter()
                answer(images)
                seconds.append(time.perf_counter() - started)
            send(replies, {"seconds": seconds})
    send(replies, {"peak_mib": peak_memory()})


def begin():
    """What this process was asked for, and where its replies go; before TensorFlow is imported."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what TensorFlow prints is not taken for a reply
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as python -m tf_reference
    return json.loads(sys.argv[1]), replies


def main() -> int:
    spec, replies = begin()
    if spec["device"] == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    import keras
    import tensorflow as tf

    if spec["device"] == "cuda" and not tf.config.list_physical_devices("GPU"):
        sys.exit("TensorFlow finds no GPU")
    tf.config.threading.set_intra_op_parallelism_threads(spec["threads"])
    keras.config.set_dtype_policy(POLICIES.get(spec["precision"], "float32"))
    (train if spec["task"] == "train" else serve)(spec, replies)
    return 0


if __name__ == "__main__":
    sys.exit(main())
