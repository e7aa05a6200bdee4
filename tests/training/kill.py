"""A fit that is killed again and again at random moments: what of its checkpoints and temporaries is left?

    python tests/training/kill.py --kills 50 --seed 0

A tiny network is trained, its last.ckpt written after every step. At seeded random moments after its start (while it
opens the data, restores a checkpoint, trains, validates, writes) it gets SIGKILL; what lies in its folder is looked at;
and it is resumed by `fit --ckpt_path last.ckpt`. In the end it runs on undisturbed. Counted:

kills        runs that were killed
in_training  of them, those that had taken a step since their start
lost         checkpoints that were there before and are not there any more
unreadable   checkpoints that read_checkpoint refuses
went_back    last.ckpts of a step before the one that was there before
left_behind  temporaries that the killed runs left, as counted at each kill; the next start removes them
left         temporaries in the folder when the next run has begun to train: what must be 0
at_the_end   hidden files after the last, whole run
half_made    of these, temporaries that a kill met in the moment before they had their lock, which tells a dead process
             from a living one; they go after an hour, and are in none of the three counts above

Runs are forked from one process that has imported torch, so that a kill takes a second. test_kill.py does three, and
fifty behind ``long``.
"""

import argparse
import importlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TINY = Path(__file__).parents[1] / "tiny.py"
FIT = ("--data.sample", "128", "--data.batch_size", "16", "--trainer.max_epochs", "100000", "--patience", "100000",
       "--trainer.precision", "32-true", "--trainer.accelerator", "cpu", "--trainer.logger", "false",
       "--checkpoint_minutes", "0", "--threads", "1", "--test_at_end", "false")  # fmt: skip
LONGEST = 120.0  # seconds that a start may take
AFTER_THE_START = 1.5  # seconds of training in which a kill may fall, beside those of the start


def tiny() -> Any:
    sys.path.insert(0, str(TINY.parent))  # a run finds the network by its name, tiny.TinyNetwork
    return importlib.import_module("tiny")


class Killer:
    def __init__(self, work: Path, seed: int) -> None:
        import lightning_cifake.commands.lightning_cli  # noqa: F401 - so that a child starts at once

        self.tiny, self.run, self.log = tiny(), work / "run", work / "log.txt"
        self.random = random.Random(seed)
        self.counts = dict.fromkeys(
            (
                "kills",
                "in_training",
                "lost",
                "unreadable",
                "went_back",
                "left_behind",
                "left",
                "at_the_end",
                "half_made",
            ),
            0,
        )

    def start(self, *arguments: str) -> int:
        """A fit in a process of its own; its id."""
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            out = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            code = self.tiny.run(["fit", *arguments])
        finally:
            sys.stdout.flush()
            os._exit(code)

    def arguments(self) -> list[str]:
        last = self.run / "last.ckpt"
        return ["--ckpt_path", str(last)] if last.exists() else ["--output_dir", str(self.run), *FIT]

    def temporaries(self) -> list[Path]:
        return [each for each in self.run.glob(".*.tmp") if not _half_made(each)]

    def steps(self) -> dict[str, int]:
        """What each checkpoint that can be read is of."""
        from lightning_cifake.checkpoint import read_checkpoint
        from lightning_cifake.errors import UserError

        found = {}
        for name in ("best.ckpt", "last.ckpt"):
            if not (self.run / name).exists():
                continue
            try:
                found[name] = read_checkpoint(self.run / name)["global_step"]
            except UserError as error:
                print(f"kill {self.counts['kills']}: {error}", file=sys.stderr)
                self.counts["unreadable"] += 1
                found[name] = -1
        return found

    def stamp(self) -> int:
        try:
            return (self.run / "last.ckpt").stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def measure_start(self) -> float:
        """Seconds from a start to the first checkpoint of a step; that run is the first to be killed."""
        began, before = time.monotonic(), self.stamp()
        child = self.start(*self.arguments())
        while self.stamp() == before:
            assert time.monotonic() - began < LONGEST, self.log.read_text()
            time.sleep(0.01)
        seconds = time.monotonic() - began
        self.kill(child, before)
        return seconds

    def kill(self, child: int, before: int) -> None:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, self.log.read_text()
        self.counts["kills"] += 1
        self.counts["in_training"] += self.stamp() != before

    def kill_once(self, longest: float) -> None:
        before, stamp, old = self.steps(), self.stamp(), set(self.temporaries())
        child = self.start(*self.arguments())
        deadline = time.monotonic() + self.random.uniform(0, longest)
        while time.monotonic() < deadline:
            time.sleep(0.005)
        self.kill(child, stamp)
        trained = self.stamp() != stamp
        after, now = self.steps(), set(self.temporaries())
        self.counts["lost"] += len(before.keys() - after.keys())
        self.counts["went_back"] += after.get("last.ckpt", -1) < before.get("last.ckpt", -1)
        self.counts["left_behind"] += len(now - old)
        if trained:  # its start had come by the old ones
            self.counts["left"] += len(now & old)

    def end(self) -> None:
        """The run goes on to the end of its epoch, undisturbed."""
        from lightning_cifake.checkpoint import read_checkpoint

        epoch = read_checkpoint(self.run / "last.ckpt")["epoch"]
        child = self.start(*self.arguments(), "--trainer.max_epochs", str(epoch + 2))
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0, self.log.read_text()
        hidden = list(self.run.glob(".*"))
        self.counts["half_made"] = sum(map(_half_made, hidden))
        self.counts["at_the_end"] = len(hidden) - self.counts["half_made"]


def _half_made(temporary: Path) -> bool:
    return temporary.suffix == ".tmp" and temporary.is_dir() and not (temporary / "lock").exists()


def kill_fits(kills: int, seed: int, work: Path) -> dict[str, int]:
    """The table of :mod:`kill` for so many kills; ``work`` is an empty folder."""
    killer = Killer(work, seed)
    longest = killer.measure_start() + AFTER_THE_START
    for _ in range(kills - 1):
        killer.kill_once(longest)
    killer.end()
    return killer.counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    with tempfile.TemporaryDirectory() as work:
        os.environ["LIGHTNING_CIFAKE_CACHE"] = f"{work}/cache"
        print(json.dumps({"seed": options.seed, **kill_fits(options.kills, options.seed, Path(work))}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
