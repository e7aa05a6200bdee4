"""A command says how many threads compute, and a run remembers how many did."""

import json


def test_threads_are_fixed_on_request_counted_and_kept_over_a_resume(tiny_command, workplace):
    done = tiny_command("fit", "--trainer.max_epochs", "1", "--threads", "1", "--data.sample", "200")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((workplace / "checkpoints/demo/1/metrics.json").read_text())
    counted = metrics["steps_by_threads"]
    assert list(counted) == ["1"] and counted["1"] > 0
    done = tiny_command(
        "fit", "--ckpt_path", "checkpoints/demo/1/last.ckpt", "--trainer.max_epochs", "2", "--threads", "1"
    )
    assert done.returncode == 0, done.stderr
    again = json.loads((workplace / "checkpoints/demo/1/metrics.json").read_text())["steps_by_threads"]
    assert again == {"1": 2 * counted["1"]}


def test_no_threads_are_refused_by_name(tiny_command):
    done = tiny_command("fit", "--threads", "0")
    assert done.returncode == 2
    assert "threads" in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()[-1:]) == 1
