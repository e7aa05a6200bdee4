"""Checkpoints that survive: written beside their target and read back before they take its name, checked when loaded.

A run keeps two. ``best.ckpt`` holds the weights of the epoch with the lowest validation loss; ``last.ckpt`` everything,
down to the random generators and the place in the epoch, so that a resumed run is as one that never stopped.
"""

import logging
import math
import os
import random
import shutil
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lightning_cifake.checkpoint import read_checkpoint
from lightning_cifake.errors import UserError
from lightning_cifake.files import replacing, write_whole
from lightning_cifake.run_folder import BEST, BEST_FILE, LAST_FILE
from lightning_cifake.signals import EndedBySignal, Repeated
from lightning_cifake.text import printable, reason_of

log = logging.getLogger(__name__)

ASK_EVERY_ON_GPU = 10  # steps; several processes that ask each other make their hosts wait for the devices


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all; reads one only when every byte is what was written.

    Lightning writes to ``$TMPDIR`` and moves: with a full disk the move destroys the checkpoint that was there.
    """

    def __init__(self) -> None:
        self._written: dict[Path, tuple[int, ...]] = {}

    def is_as_written(self, path: Path) -> bool:
        """Whether a file that was written here is still that one; True for files that were not written here."""
        return self._written.get(path.absolute()) in (None, _file_identity(path))

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        target = Path(path)
        try:
            with replacing(target) as temporary:
                with temporary.open("wb") as file:
                    torch.save(checkpoint, file)
                _check_written(temporary, target)
            self._written[target.absolute()] = _file_identity(target)
        except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError when the disk is full
            kept = "; the one that was there is untouched" if target.exists() else ""
            reason = _why_not_written(error, target.parent)
            raise UserError(f"could not write the checkpoint {printable(target)} ({reason}){kept}") from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(Path(path))  # on the CPU: what is restored from it is copied to where it belongs


def _file_identity(path: Path) -> tuple[int, ...]:
    """Tells a file from one that has taken its place."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _check_written(temporary: Path, target: Path) -> None:
    try:
        read_checkpoint(temporary)
    except UserError as error:
        reason = str(error).replace(printable(temporary), "what was to be written")
        raise UserError(f"{printable(target)} was not written, what was there is untouched: {reason}") from error


def _why_not_written(error: BaseException, folder: Path) -> str:
    """torch's writer hides the system's own error behind a position in its file."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError) and found.strerror:
            return reason_of(found)
        found = found.__cause__ or found.__context__
    free = shutil.disk_usage(folder).free if folder.is_dir() else 0
    return f"{reason_of(error)}; {free // 2**20:,} MiB are free in {printable(folder)}"


class BestCheckpoint(ModelCheckpoint):
    """ModelCheckpoint that still knows the best when its run is resumed in another folder, or the folder was moved.

    Lightning compares absolute paths: where they differ it forgets the best loss, and the next epoch overwrites the
    best. And it writes a NaN loss down as infinity, which any number beats; here a NaN in the first epoch stays the
    best, as in Keras's early stopping.
    """

    reset_best = False
    """Set where a run is resumed with other images: a loss on those before is no measure for these."""

    _resumed_in: Path | None = None
    _nan_is_best = False

    def write_to(self, run_dir: Path) -> None:
        """Another folder than it was made with, before training starts."""
        self.dirpath = str(run_dir)

    # before load_state_dict, and not in setup, where the Trainer does not know its ckpt_path yet
    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._resumed_in = Path(trainer.ckpt_path).parent if trainer.ckpt_path else None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """A best.ckpt that is gone is as none: the best is counted from here."""
        if self.reset_best or not state_dict["best_model_path"]:
            return
        assert self.dirpath is not None
        path = Path(self.dirpath) / BEST_FILE
        beside = self._resumed_in / path.name if self._resumed_in else path
        if beside.is_file() and not (path.is_file() and path.samefile(beside)):
            write_whole(path, beside.read_bytes())
        if not path.is_file():
            log.warning("%s is gone: the best epoch is chosen from the ones to come", beside)
            return
        score = state_dict["best_model_score"]
        self._nan_is_best = bool(score.isnan())
        here = {
            "dirpath": self.dirpath,
            "best_model_path": str(path),
            "kth_best_model_path": str(path),
            "best_k_models": {str(path): score},
        }
        super().load_state_dict({**state_dict, **here})

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        return {**state, "best_model_score": torch.tensor(math.nan)} if self._nan_is_best else state

    def check_monitor_top_k(self, trainer: L.Trainer, current: torch.Tensor | None = None) -> bool:
        if self._nan_is_best:
            return False
        better = super().check_monitor_top_k(trainer, current)
        self._nan_is_best = better and current is not None and bool(current.isnan())
        return better


def best_checkpoint(run_dir: Path) -> BestCheckpoint:
    """Keeps ``best.ckpt``: the weights at the lowest val_loss, the first of equals, as Keras's restore_best_weights."""
    return BestCheckpoint(
        dirpath=run_dir,
        filename=BEST,
        monitor="val_loss",
        mode="min",
        save_top_k=1,
        save_weights_only=True,
        enable_version_counter=False,
        auto_insert_metric_name=False,
    )


class Stopped(Exception):
    """Training ended by a signal, after the checkpoint was written; in all processes of a run, the first one tells."""

    def __init__(self, signum: int, checkpoint: Path, step: int, reported_by_rank_zero: bool = False) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name} after step {step}")
        self.signum, self.checkpoint, self.step, self.reported_by_rank_zero = (
            signum,
            checkpoint,
            step,
            reported_by_rank_zero,
        )


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt``: everything, at the end of each epoch, every few minutes, and on SIGTERM or Ctrl-C.

    A signal is obeyed between two steps, where the state is whole; one that comes during validation waits for its end.
    A second one stops at once. Several processes obey a signal to any of them, all at the same step.

    Args:
        run_dir: where ``last.ckpt`` goes; with several processes the first one's counts.
        every_seconds: longest time between two checkpoints.
        every_n_steps: also after so many steps; for tests.
    """

    def __init__(self, run_dir: Path, every_seconds: float = 600.0, every_n_steps: int | None = None) -> None:
        self.path = Path(run_dir) / LAST_FILE
        self.every_seconds, self.every_n_steps = every_seconds, every_n_steps
        self._saved_at = time.monotonic()
        self._signal: int | None = None
        self._stopping = False
        self._repeated = Repeated()
        self._handlers: dict[int, Any] = {}

    def write_to(self, run_dir: Path) -> None:
        """Another folder than it was made with, before training starts."""
        self.path = run_dir / LAST_FILE

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.path = trainer.strategy.broadcast(self.path)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved_at = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            self._handlers = {
                number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)
            }

    def _on_signal(self, signum: int, frame: Any) -> None:
        again = self._repeated(signum)
        if self._signal is not None:
            if again:
                raise EndedBySignal(signum)
            return
        self._signal = signum
        with suppress(OSError):  # there may be no reader
            os.write(2, b"\nstopping: finishing this step and writing the checkpoint (once more to stop at once)\n")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # behind the last batch comes the validation, then the end of the epoch: saved there; and between batches
        # whose gradients are being summed up, the sum would be lost
        summing_up = (batch_idx + 1) % trainer.accumulate_grad_batches
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch or summing_up:
            return
        due = self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0
        if due or self._is_time(trainer):
            self._save(trainer)

    def _is_time(self, trainer: L.Trainer) -> bool:
        """Whether a signal or the clock asks for a checkpoint: the same answer in every process."""
        on_gpus = trainer.world_size > 1 and trainer.strategy.root_device.type != "cpu"
        if on_gpus and trainer.global_step % ASK_EVERY_ON_GPU:
            return False
        overdue = time.monotonic() - self._saved_at > self.every_seconds
        return any(_max_over_processes(trainer, self._signal or 0, int(overdue)))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop_if_signalled(trainer)  # a signal received while the last epoch was being saved

    def _save(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._saved_at = time.monotonic()
        self._stop_if_signalled(trainer)

    def _stop_if_signalled(self, trainer: L.Trainer) -> None:
        # not kept: this process's own signal may be on its way yet, and would pass for a second one
        (signum,) = _max_over_processes(trainer, self._signal or 0)
        if signum:
            self._stopping = True
            raise Stopped(signum, self.path, trainer.global_step, reported_by_rank_zero=not trainer.is_global_zero)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._on_signal:  # Lightning may have put back what was there before it
                signal.signal(number, handler)
        self._handlers = {}
        if self._signal is not None and not self._stopping and not trainer.interrupted:
            os.kill(os.getpid(), self._signal)  # too late for training: it is the next handler's


def _max_over_processes(trainer: L.Trainer, *numbers: int) -> list[int]:
    """Each number's largest value over all processes."""
    if trainer.world_size == 1:
        return list(numbers)
    own = torch.tensor(numbers, device=trainer.strategy.root_device)
    return trainer.strategy.reduce(own, reduce_op="max").tolist()


class ExactResume(L.Callback):
    """Stores torch's, numpy's and Python's random generators with a checkpoint, and sets them when training resumes.

    Several processes all begin with the first one's, as they were when this callback was made: Lightning's DDP seeds
    anew as it starts, and would draw other numbers than one process.
    """

    def __init__(self) -> None:
        self._restore: dict[str, Any] | None = None
        self._first = _generators()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["generators"] = {**_generators(), "cuda": _cuda_generators(pl_module.device)}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._restore = checkpoint.get("generators")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        saved, self._restore = self._restore, None
        if trainer.world_size > 1:
            saved = saved or {**self._first, "cuda": _cuda_generators(pl_module.device)}
            saved = trainer.strategy.broadcast(saved)
        if saved is None:
            return
        try:
            _set_generators(saved, pl_module.device)
        except (AttributeError, LookupError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                "the checkpoint cannot be resumed: its random generators are not what this program writes "
                f"({reason_of(error)})"
            ) from error


def _generators() -> dict[str, Any]:
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - whatever the user's code draws from
    return {
        "torch": torch.get_rng_state(),
        "python": [version, list(words), gauss],
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
    }


def _cuda_generators(device: torch.device) -> list[torch.Tensor]:
    """Of the device that this process trains on: all processes' are alike."""
    return [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []


def _set_generators(saved: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(saved["torch"].cpu())
    if device.type == "cuda" and saved["cuda"]:
        # checkpoints of version 0.1.0 hold every device's
        at = device.index if device.index is not None and device.index < len(saved["cuda"]) else 0
        torch.cuda.set_rng_state(saved["cuda"][at].cpu(), device)
    version, words, gauss = saved["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = saved["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
