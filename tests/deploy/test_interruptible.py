"""A model that never ends is ended by a signal, from the command line and from Python."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lightning_cifake import Detector
from lightning_cifake.deploy import interruptible
from lightning_cifake.deploy.digest import sealed


def never_ending(path: Path) -> Path:
    """The brightness model, behind a loop of 2^62 rounds."""
    model = onnx.load_model(path)
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["still"]),
            helper.make_node("Add", ["value", "one"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, ["batch"]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, ["batch"]),
        ],
    )
    graph = model.graph
    graph.initializer.append(helper.make_tensor("rounds", TensorProto.INT64, [], [2**62]))
    graph.initializer.append(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
    graph.initializer.append(helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]))
    (mean,) = (node for node in graph.node if node.op_type == "Mul")
    mean.input[0] = "late"
    at = list(graph.node).index(mean)
    graph.node.insert(at, helper.make_node("Loop", ["rounds", "yes", "mean"], ["late"], body=body))
    path.write_bytes(sealed(model.SerializeToString()))
    return path


IMAGE = np.zeros((32, 32, 3), np.uint8)


@pytest.mark.timeout(60)
def test_ctrl_c_ends_a_model_that_never_ends_and_the_next_call_works(make_model: Callable[..., Path]) -> None:
    sound = Detector(make_model("sound.onnx"))
    detector = Detector(never_ending(make_model()))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            detector.predict(IMAGE)
        assert time.monotonic() - started < 20
    finally:
        signal.signal(signal.SIGINT, before)
    assert [answer.verdict for answer in sound.predict(IMAGE)] == ["AI"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_ends_with_one_line(make_model: Callable[..., Path], number: int, code: int) -> None:
    path = never_ending(make_model())
    np.save(path.parent / "a.npy", IMAGE)
    command = [sys.executable, "-m", "lightning_cifake", "predict", "--model", path, "-", "--output", "rows.csv"]
    from PIL import Image

    Image.fromarray(IMAGE).save(path.parent / "a.png")
    with (
        (path.parent / "a.png").open("rb") as image,
        subprocess.Popen(
            command,
            stdin=image,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=path.parent,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as running,
    ):
        until = time.monotonic() + 60
        while not list(path.parent.glob(".rows*")) and time.monotonic() < until:  # it is about to ask
            time.sleep(0.05)
        time.sleep(1)
        running.send_signal(number)
        try:
            out, error = running.communicate(timeout=30)
        finally:
            running.kill()
    assert running.returncode == code and out == b"" and error.count(b"\n") == 1
    assert not list(path.parent.glob("*rows*"))


def test_what_a_run_raises_comes_out_in_every_thread() -> None:
    class Broken:
        def run(self, *_: object) -> None:
            raise ValueError("no")

    caught: list[str] = []

    def call() -> None:
        with pytest.raises(ValueError, match="no"):
            interruptible.run(Broken(), [], {})
        caught.append(threading.current_thread().name)

    call()
    other = threading.Thread(target=call)
    other.start()
    other.join()
    assert len(caught) == 2
