"""Every argument of Lightning's Trainer that cannot be: one line, exit code 2, nothing left, and what can be known from
the arguments alone before torch is imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import NETWORK

from lightning_cifake.commands.given import read_given
from lightning_cifake.commands.main import main
from lightning_cifake.errors import UserError
from lightning_cifake.machine import cores
from lightning_cifake.training.trainer_arguments import TRAINER, check_arguments, check_given

BASE = ["fit", *NETWORK, "--data.sample", "128", "--data.batch_size", "16", "--trainer.max_epochs", "1",
        "--trainer.precision", "32-true", "--trainer.accelerator", "cpu", "--trainer.logger", "false"]  # fmt: skip

# (arguments behind --trainer., a part of the line)
FROM_ARGUMENTS = [
    (
        "limit_train_batches 0",
        "limit_train_batches: expected a share above 0 and up to 1, or a whole number of batches",
    ),
    ("limit_train_batches=0.0", "got 0.0"),
    ("limit_train_batches -1", "got -1"),
    ("limit_train_batches 1.5", "got 1.5"),
    ("limit_val_batches 2.5", "limit_val_batches: expected a share from 0 to 1"),
    ("limit_val_batches -1", "got -1"),
    ("limit_test_batches 0", "--test_at_end false leaves the test out"),
    ("limit_predict_batches -1", "limit_predict_batches: expected"),
    ("overfit_batches -1", "overfit_batches: expected"),
    ("overfit_batches 1.5", "overfit_batches: expected"),
    ("max_steps 0", "max_steps: expected at least 1, or -1 for no end, got 0"),
    ("max_steps -2", "got -2"),
    ("max_steps 1.5", "got 1.5"),
    ("max_epochs 0", "max_epochs: expected at least 1, or -1 for no end, got 0"),
    ("max_epochs -3", "got -3"),
    ("min_epochs -1", "min_epochs: expected at least 0"),
    ("min_epochs 5", "min_epochs: expected at most trainer.max_epochs, 1, got 5"),
    ("min_steps -1", "min_steps: expected at least 0"),
    ("max_time 0", "max_time: expected a time above 0 as DD:HH:MM:SS, got 0"),
    ("max_time 00:00:00:00", "got 00:00:00:00"),
    ("max_time xyz", "got xyz"),
    ("val_check_interval 0", "val_check_interval: expected a share above 0"),
    ("val_check_interval 1.5", "got 1.5"),
    ("val_check_interval -1", "got -1"),
    ("val_check_interval 00:00:00:00", "got 00:00:00:00"),
    ("check_val_every_n_epoch 0", "check_val_every_n_epoch: expected at least 1, got 0"),
    ("check_val_every_n_epoch -1", "got -1"),
    ("num_sanity_val_steps -2", "num_sanity_val_steps: expected at least 0"),
    ("log_every_n_steps -1", "log_every_n_steps: expected at least 0"),
    ("accumulate_grad_batches 0", "accumulate_grad_batches: expected at least 1, got 0"),
    ("accumulate_grad_batches -1", "got -1"),
    ("gradient_clip_val -1", "gradient_clip_val: expected a finite number from 0"),
    ("gradient_clip_val .inf", "gradient_clip_val: expected a finite number from 0"),
    ("gradient_clip_algorithm xyz", "gradient_clip_algorithm: expected one of norm, value, got xyz"),
    ("fast_dev_run -1", "fast_dev_run: expected true, false, or a number of batches"),
    ("barebones true", "barebones: expected false"),
    ("enable_checkpointing false", "enable_checkpointing: expected true"),
    ("devices 0", "devices: expected auto, a number from 1, or a list"),
    ("devices -5", "got -5"),
    ("devices abc", "got abc"),
    ("devices 1.5", "got 1.5"),
    ("devices 99999", f"devices: expected at most {4 * cores()} processes on the {cores()} cores"),
    ("num_nodes 0", "num_nodes: expected at least 1"),
    ("num_nodes -1", "num_nodes: expected at least 1"),
    ("reload_dataloaders_every_n_epochs -1", "reload_dataloaders_every_n_epochs: expected at least 0"),
    ("profiler abc", "profiler: expected one of simple, advanced, pytorch"),
]
FROM_LIGHTNING = [
    ("limit_train_batches 0.001", "limit_train_batches"),  # the data must be there to know
    ("val_check_interval 1000", "`val_check_interval` (1000) must be less than or equal"),
    ("devices -1", "`devices` selected with `CPUAccelerator`"),
    ("accelerator abc", "accelerator='abc'"),
    ("accelerator tpu", "torch_xla"),
    ("strategy abc", "strategy='abc'"),
    ("strategy fsdp", "requires a GPU accelerator"),
    ("strategy deepspeed", "DeepSpeed"),
    ("precision abc", "trainer.precision: expected"),
    ("precision transformer-engine", "transformer_engine"),
    ("max_epochs many", "trainer.max_epochs: expected a whole number or null, got many"),
    ("logger abc", "trainer.logger: expected"),
    ("logger MLFlowLogger", "lightning.pytorch.loggers.MLFlowLogger: "),
    ("logger CometLogger", "lightning.pytorch.loggers.CometLogger: "),
    ("callbacks abc", "trainer.callbacks: expected"),
    ("callbacks EarlyStopping", "the following arguments are required: monitor"),
    ("callbacks LearningRateMonitor", "Cannot use `LearningRateMonitor`"),
    ("callbacks RichProgressBar", "RichProgressBar"),
    ("plugins TorchCheckpointIO", "CheckpointIO"),
    ("deterministic abc", "trainer.deterministic: expected"),
    ("nosuch 1", "--trainer.nosuch"),
]  # fmt: skip


def split(given: str) -> list[str]:
    return [f"--trainer.{given}"] if "=" in given else [f"--trainer.{given.split()[0]}", *given.split()[1:]]


def check(*arguments: str, command: str = "fit") -> None:
    """As a command does it before it imports Lightning."""
    given = read_given(arguments)
    check_given(given.trainer, given.run, command)


@pytest.mark.parametrize(("given", "says"), FROM_ARGUMENTS)
def test_what_the_arguments_alone_tell_is_refused_from_them(given: str, says: str) -> None:
    with pytest.raises(UserError) as refused:
        check(*BASE[1:], *split(given))
    assert says in str(refused.value) and "\n" not in str(refused.value)
    if "=" not in given:  # and where a file says it: as the parser hands it over
        name, value = given.split()
        known = {"max_epochs": 1, "accelerator": "cpu", name: _parsed(value)}
        with pytest.raises(UserError, match=r"trainer\."):
            check_arguments(known, {})


def _parsed(value: str) -> object:
    try:
        return json.loads(value)
    except ValueError:
        return float("inf") if value == ".inf" else value


def test_neither_torch_nor_lightning_is_imported_to_refuse_an_argument(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom lightning_cifake.commands.main import main\n"
        "code = main(['fit', '--trainer.limit_train_batches', '0'])\n"
        "print(code, sorted({'torch', 'lightning', 'jsonargparse', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.stdout == "2 []\n" and len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("given", "says"), [FROM_ARGUMENTS[0], FROM_ARGUMENTS[29], *FROM_LIGHTNING])
def test_a_refused_argument_is_one_line_and_leaves_nothing(
    given: str, says: str, workplace: Path, tiny_network: type, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*BASE, *split(given)]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("config: ", "data: "))]
    assert len([line for line in said if line.startswith("error: ")]) == 1 and says in said[-1], said
    assert not [line for line in said if "Traceback" in line]
    assert not list(workplace.iterdir())


def test_a_file_s_argument_is_refused_as_well(
    workplace: Path, tiny_network: type, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace / "mine.yaml").write_text("trainer:\n  accumulate_grad_batches: 0\n")
    assert main(["fit", *NETWORK, "--config", "mine.yaml"]) == 2
    assert "trainer.accumulate_grad_batches: expected at least 1, got 0" in capsys.readouterr().err
    assert [path.name for path in workplace.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize(
    "given",
    [
        "max_epochs -1", "max_steps 7", "limit_train_batches 0.5", "limit_train_batches 1", "limit_train_batches 2.0",
        "limit_val_batches 0", "val_check_interval 0.25", "val_check_interval 00:00:10:00", "max_time 00:00:00:01",
        "devices auto", "devices 1", "devices 0,1", "fast_dev_run true", "fast_dev_run 2", "num_sanity_val_steps -1",
        "gradient_clip_val 0.5", "gradient_clip_algorithm value", "profiler simple", "barebones false",
        "profiler lightning.pytorch.profilers.SimpleProfiler", "overfit_batches 3", "max_epochs many",
    ],
)  # fmt: skip
def test_what_can_be_is_let_through(given: str) -> None:
    check(*split(given))


def test_every_rule_is_for_an_argument_that_the_trainer_has() -> None:
    import inspect

    import lightning as L

    assert not TRAINER.keys() - inspect.signature(L.Trainer).parameters.keys()


@pytest.mark.parametrize(("command", "limit"), [("test", "limit_test_batches"), ("validate", "limit_val_batches")])
def test_a_measurement_of_nothing_is_refused(command: str, limit: str) -> None:
    with pytest.raises(UserError, match=rf"trainer\.{limit}: expected .* got 0"):
        check(f"--trainer.{limit}", "0", command=command)


def test_a_test_run_of_lightning_keeps_nothing_and_reports_nothing(
    workplace: Path, tiny_network: type, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*BASE, "--trainer.fast_dev_run", "true"]) == 0
    said = capsys.readouterr().out
    assert "fast_dev_run: 1 step and the validation went well; nothing is kept" in said and "AUROC" not in said
    assert not list(workplace.iterdir())


def test_a_run_whose_time_is_up_before_its_first_step_is_refused(
    workplace: Path, tiny_network: type, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning.pytorch.callbacks import Timer

    monkeypatch.setattr(Timer, "time_elapsed", lambda self, stage=None: 1e9)
    assert main([*BASE, "--trainer.max_time", "00:00:00:01"]) == 2
    assert "nothing was trained: expected at least one step, got none of the 89" in capsys.readouterr().err
    assert not list(workplace.iterdir())


def test_a_refused_argument_leaves_a_run_that_goes_on_as_it_was(
    workplace: Path, tiny_network: type, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*BASE, "--test_at_end", "false"]) == 0
    run = workplace / "checkpoints/demo/1"
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    more = ["fit", "--ckpt_path", str(run / "last.ckpt"), "--trainer.max_epochs", "2", "--trainer.val_check_interval"]
    assert main([*more, "1000"]) == 2
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    assert main([*more, "2"]) == 0
    assert (run / "config.yaml").read_bytes() != before["config.yaml"]


def test_a_limited_test_says_what_it_measured(
    workplace: Path, tiny_network: type, capsys: pytest.CaptureFixture[str]
) -> None:
    limited = ["--data.eval_batch_size", "4", "--trainer.limit_test_batches", "2"]
    assert main([*BASE, *limited]) == 0
    said = capsys.readouterr().out
    assert "measured on 8 of the 13 images of this part" in said
    assert json.loads((workplace / "checkpoints/demo/1/metrics.json").read_text())["images"] == 8
