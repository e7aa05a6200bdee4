"""Which engines there are, and the process that one of them works in."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, Any, NamedTuple

from lightning_cifake.errors import UserError
from lightning_cifake.shipped import reference_folder


class Engine(NamedTuple):
    """``trains`` and ``answers`` say what is measured of it; ``model`` which file it answers from; ``configs`` what its
    ``fit`` is configured by, for one that trains by this project's own command; ``large`` that it trains in batches of
    the tuned size."""

    name: str
    about: str
    module: str
    trains: bool
    answers: bool
    model: str = ""
    exact: bool = True
    """In float32: its answers must be the others'."""
    configs: tuple[str, ...] = ()
    large: bool = False

    def answers_in(self, precision: str) -> str:
        """The precision that its inference is measured in, where training's is ``precision``."""
        return precision if self.model in ("ckpt", "keras") else "32-true" if self.exact else "int8"

    @property
    def first_look(self) -> bool:
        """Whether ``--quick`` measures it: the systems as they are published."""
        return not self.large and "tuned" not in self.name


_OURS, REFERENCE = "lightning_cifake.benchmark.worker", "tf_reference.benchmark"
RECIPE = ("published", "cpu")
ENGINES = {
    engine.name: engine
    for engine in (
        Engine("tf", "the reference as published: its input pipeline, fit, predict", REFERENCE, True, True, "keras"),
        Engine("tf-tuned-small", "tf-tuned in batches of the published size", REFERENCE, True, False),
        Engine(
            "tf-tuned", "the same network, TensorFlow's best known settings", REFERENCE, True, True, "keras", large=True
        ),
        Engine("torch", "a bare loop around the network, no Lightning", _OURS, True, True, "ckpt"),
        Engine("lightning", "this project's own commands", _OURS, True, True, "ckpt", configs=("published",)),
        Engine(
            "lightning-large",
            "lightning in batches of the tuned size",
            _OURS,
            True,
            False,
            configs=("published",),
            large=True,
        ),
        Engine(
            "lightning-tuned",
            "fit --config cpu, on a GPU t4",
            _OURS,
            True,
            False,
            configs=("published", "cpu"),
            large=True,
        ),
        Engine("onnxruntime", "an exported model, float32, through Detector", _OURS, False, True, "onnx"),
        Engine("onnxruntime-int8", "the same in int8", _OURS, False, True, "int8", exact=False),
    )
}


GPU_RECIPE = "t4"  # in place of the recipe for processors
LONGEST = 600.0  # seconds that one reply may take: what hangs, or is emulated, falls out


def with_reference() -> dict[str, str]:
    """The variable by which a process finds ``tf_reference``, which is no part of the installed package.

    Raises:
        UserError: it is neither beside this package nor in the current folder.
    """
    folder = reference_folder()
    if folder is None:
        raise UserError("it needs tf_reference/, which is not installed: run it in a checkout of the project")
    # behind what the user has named
    return {"PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(folder))))}


def command(engine: Engine, spec: dict[str, Any]) -> list[str]:
    """What ``python -m`` is given: ``fit`` as a user starts it, with a callback that takes turns, or a worker."""
    if "recipe" in spec:
        return ["lightning_cifake", "fit", "--config", str(spec["recipe"]), "--output_dir", str(spec["output_dir"])]
    if not engine.configs or spec["task"] != "train":
        return [engine.module, json.dumps({"engine": engine.name, **spec}, default=str)]
    network = {**spec["network"], "init_args": dict(spec["network"]["init_args"])}
    network["init_args"].pop("image_size", None)  # fit takes it from the data's
    arguments = {
        "--data.root": spec["data"],
        "--data.sample": "null",
        "--data.image_size": spec["image_size"],
        "--data.cache_dir": spec["scratch"],
        "--data.batch_size": spec["batch_size"],
        "--model.network": json.dumps(network),
        "--output_dir": Path(spec["scratch"]) / "run",
        "--trainer.precision": spec["precision"],
        "--trainer.accelerator": {"cpu": "cpu", "cuda": "gpu"}[spec["device"]],
        "--trainer.devices": 1,  # as the others
        "--trainer.max_epochs": 1_000_000,
        "--trainer.limit_val_batches": 0,
        "--trainer.enable_progress_bar": "false",
        "--trainer.callbacks": "lightning_cifake.benchmark.callback.BenchmarkCallback",
    }
    names = [GPU_RECIPE if name == "cpu" and spec["device"] == "cuda" else name for name in engine.configs]
    configs = [part for name in names for part in ("--config", name)]
    return ["lightning_cifake", "fit", *configs, *(str(part) for pair in arguments.items() for part in pair)]


def last_words(log: IO[str], exit_code: int) -> str:
    """Why a process failed: the last line of what it wrote to standard error."""
    log.seek(0)
    lines = [line.strip() for line in log.read().splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else f"it ended silently, exit code {exit_code}"


class Worker:
    """A process that an engine works in; what goes wrong in it is a UserError with its last line."""

    def __init__(self, engine: Engine, spec: dict[str, Any]) -> None:
        self.name = engine.name
        self._late = False
        environment = {**os.environ, **({} if engine.module == _OURS else with_reference())}
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed when the worker is
        threads = str(spec["threads"])
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command(engine, spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**environment, "OMP_NUM_THREADS": threads, "TF_NUM_INTRAOP_THREADS": threads},
        )

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(question, default=str) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # its last words come below
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        timer = threading.Timer(LONGEST, self._give_up)
        timer.daemon = True  # Ctrl-C does not wait for it
        timer.start()
        try:
            line = self.process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            self.process.wait()
            raise UserError(
                f"no reply within {LONGEST:.0f} s" if self._late else last_words(self.log, self.process.returncode)
            )
        return json.loads(line)

    def _give_up(self) -> None:
        self._late = True
        self.process.kill()

    def end(self) -> float | None:
        """Its peak memory in MiB; the process is over then."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        peak = self._reply()["peak_mib"]
        self.process.wait()
        return peak

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.log):
            if stream is not None:
                stream.close()
