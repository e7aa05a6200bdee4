"""The commands ``fit``, ``validate`` and ``test``: LightningCLI, a folder for each run, and the report at its end."""

import logging
import sys
import time
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning as L
import yaml
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.environments import LightningEnvironment

from lightning_cifake.assessment.page import write_page
from lightning_cifake.commands.experiment_row import check_asked, configuration_of
from lightning_cifake.commands.lightning_arguments import TRAINER_DEFAULTS, TrainingArguments
from lightning_cifake.commands.lightning_checks import (
    check_checkpoint_is_there,
    check_seed,
    choose_folder,
    follow_image_size,
    measure_as_it_is,
    named_model_arguments,
)
from lightning_cifake.commands.lightning_help import parser_arguments
from lightning_cifake.commands.model_arguments import plain_arguments, take_moved
from lightning_cifake.console import is_of_output
from lightning_cifake.data import trained_on
from lightning_cifake.data.datamodule import CIFAKEDataModule
from lightning_cifake.data.protocols import write_split
from lightning_cifake.distributed import launcher_world, shutdown_process_group
from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.checkpoint_calibration import CheckpointCalibration, read_calibration
from lightning_cifake.files import expand_user, write_whole
from lightning_cifake.freed_memory import keep_freed_memory
from lightning_cifake.machine import is_first_process
from lightning_cifake.run_folder import (
    BEST,
    CONFIG,
    HISTORY,
    LAST,
    LAST_FILE,
    OF_ONE_COMMAND,
    SPLIT,
    RunConfig,
    sealed_config,
)
from lightning_cifake.signals import EndedBySignal
from lightning_cifake.text import printable, reason_of
from lightning_cifake.training.callbacks import Begun, ComputeThreads, HasTrained, default_callbacks
from lightning_cifake.training.checkpoints import BestCheckpoint, LastCheckpoint, SafeCheckpointIO
from lightning_cifake.training.classifier import SYNC_REFUSED, FakeImageClassifier, has_keras_norms
from lightning_cifake.training.early_stopping import KerasEarlyStopping, RestoreBestWeights
from lightning_cifake.training.experiments import append_experiment, best_figures, machine_of, machine_text
from lightning_cifake.training.lean_trainer import make_lean
from lightning_cifake.training.precision import FULL, best_precision, names_gpu
from lightning_cifake.training.refusals import in_one_line, of_restoring, of_the_system
from lightning_cifake.training.resume import (
    Resumed,
    check_shapes,
    refuse_other_data,
    refuse_other_model,
)
from lightning_cifake.training.run_report import (
    Measured,
    add_training,
    best_epoch,
    run_metadata,
    write_and_print,
    write_history,
)
from lightning_cifake.training.trainer_arguments import check_arguments

log = logging.getLogger(__name__)

_OF_A_READER = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What Lightning and torch raise when they restore a state that is not one."""


class Cli(TrainingArguments):
    """LightningCLI with a run folder, the automatic precision, and a test and a report when ``fit`` ends."""

    def __init__(
        self, args: list[str], run_name: str, resumed: Resumed | None = None, run_config: RunConfig | None = None
    ) -> None:
        self.run_name, self.resumed, self.run_config = run_name, resumed, run_config
        self.named_model_arguments = named_model_arguments(args)
        self.configuration = configuration_of(args[1:])
        self.seconds: dict[str, float] = {}
        self._calibrated: CheckpointCalibration | None = None
        self._begun, self._trained = Begun(self._write_down), HasTrained()
        # the parser of one command: the others' would take as long to build
        command = args[0]
        self.subcommands = lambda: {command: TrainingArguments.subcommands()[command]}  # type: ignore[method-assign]
        super().__init__(
            FakeImageClassifier,
            CIFAKEDataModule,
            args=args,
            parser_kwargs={command: parser_arguments()[command]},
            seed_everything_default=0,
            trainer_defaults=dict(TRAINER_DEFAULTS),
            save_config_callback=None,  # written by before_fit, beside the checkpoints
            auto_configure_optimizers=False,  # --model.optimizer is the one way
        )

    def _parse_ckpt_path(self) -> None:
        """Lightning lays the checkpoint's hyper-parameters over whatever was asked for; here they lie beneath it."""

    def before_instantiate_classes(self) -> None:
        config = self._config()
        # of a configuration: the command line's have been expanded
        for name in ("ckpt_path", "output_dir", "experiments"):
            if config[name]:
                config[name] = str(expand_user(config[name]))
        on_cpu = not names_gpu(config.trainer.accelerator)
        take_moved(config.model, self.named_model_arguments)
        check_arguments(config.trainer.as_dict(), config.as_dict(), str(self.subcommand), on_cpu)
        command = str(self.subcommand)
        follow_image_size(config, self.named_model_arguments)
        check_checkpoint_is_there(config, command, self.resumed)
        if self.resumed is not None and command == "fit":
            self.changed = refuse_other_model(self.resumed, plain_arguments(config.model))
            check_seed(config, self.run_config)
        elif self.resumed is not None:
            measure_as_it_is(config, command, self.resumed, self.named_model_arguments)
        check_asked(config, command)
        outside = launcher_world()
        if outside is not None and (config.trainer.devices, config.trainer.num_nodes) == (1, 1):  # nothing else asked
            config.trainer.devices, config.trainer.num_nodes = outside
        if config.trainer.precision is None:
            fitting = self.subcommand == "fit"
            config.trainer.precision = best_precision(config.trainer.accelerator) if fitting else FULL
        if config.trainer.enable_progress_bar is None:
            config.trainer.enable_progress_bar = sys.stdout.isatty()
        self.folder = choose_folder(config, command, self.run_name)
        if self.subcommand == "fit":
            try:
                self.folder.check()  # by all: nothing is written before every process has begun to train
            except UserError as error:
                error.reported_by_rank_zero = not is_first_process()
                raise

    def _config(self) -> Any:
        return self.config[self.subcommand]

    @property
    def output_dir(self) -> Path:
        return self.folder.path

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        config, trainer = self._config(), self.config_init[self.subcommand].trainer
        if self.subcommand == "fit":
            own = default_callbacks(self.output_dir, config.patience, config.checkpoint_minutes, config.threads)
            if trainer.fast_dev_run:  # nothing of it is kept
                own = [one for one in own if not isinstance(one, Checkpoint | RestoreBestWeights)]
                trainer.logger = False
            trainer.callbacks = [*_listed(trainer.callbacks), *own, self._trained]
            self._own_loggers = trainer.logger in (None, True)  # made when the folder is
            trainer.logger = False if self._own_loggers else trainer.logger
        else:
            trainer.callbacks = [*_listed(trainer.callbacks), ComputeThreads(config.threads)]
            trainer.logger = trainer.logger or False
        trainer.callbacks = [*_listed(trainer.callbacks), self._begun]
        trainer.plugins = [*_listed(trainer.plugins), SafeCheckpointIO()]
        made = super().instantiate_trainer(**kwargs)
        make_lean(made)
        if not made.is_global_zero:
            logging.getLogger("lightning_cifake").setLevel(logging.ERROR)
        return made

    def before_fit(self) -> None:
        self._prepare_data()
        if self.trainer.is_global_zero:
            self._check_data()
        self._started = time.monotonic()
        if self._config().trainer.fast_dev_run:
            return
        if self.trainer.is_global_zero:  # the others' output_dir is theirs alone: nothing is written there
            self.folder.claim()
            for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, BestCheckpoint | LastCheckpoint):
                    callback.write_to(self.output_dir)
            log.info("run folder: %s, precision %s", printable(self.output_dir), self.trainer.precision)
        if self._own_loggers:
            # step by step; an epoch's figures are the model's history, which history.csv and history.png are made from
            self.trainer.loggers = [TensorBoardLogger(self.output_dir, name="tensorboard")]

    def _write_down(self) -> None:
        """What runs, once it runs: a checkpoint that cannot be restored leaves its folder as it was."""
        if self.trainer.is_global_zero and not self._config().trainer.fast_dev_run:
            write_whole(self.output_dir / CONFIG, sealed_config(self._config_text()))
            write_split(self.output_dir / SPLIT, self.datamodule.images, self.datamodule.split)

    def _check_data(self) -> None:
        """Resuming with other images needs to be asked for; what changed of the model is said."""
        if self.resumed is None:
            return
        for name, (was, now) in self.changed.items():
            log.info("model.%s: %s from here on, %s before", name, printable(now), printable(was))
        rate = self.resumed.learning_rate(self.model.hparams)
        if rate is not None and not self.changed.keys().isdisjoint({"learning_rate", "lr_decay"}):
            log.info("the next epoch trains at a learning rate of %.4g", rate)
        entry = trained_on.description_of(self.datamodule)
        if not refuse_other_data(self.resumed, entry, self._config().new_data):
            return
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, BestCheckpoint | KerasEarlyStopping):
                callback.reset_best = True  # a loss on other images is no measure for the ones to come

    def _prepare_data(self) -> None:
        """Data before anything is written: a wrong path leaves no folder behind.

        By a node's first process; the others wait for it where Lightning prepares the data, and open what it has made.
        """
        if self.trainer.local_rank == 0:
            self.datamodule.prepare_data()
            self.datamodule.setup()

    def _config_text(self) -> str:
        dumped = yaml.safe_load(self.parser.dump(self.config_as_given, skip_none=False))[self.subcommand]
        kept = {name: value for name, value in dumped.items() if name not in OF_ONE_COMMAND}
        return yaml.safe_dump(kept, sort_keys=False)

    def instantiate_classes(self) -> None:
        self.config_as_given = self.config.clone()
        with in_one_line():
            self.config_init = self.parser.instantiate_classes(self.config)
            self.datamodule = self._get(self.config_init, "data")
            self.model = FakeImageClassifier(**plain_arguments(self._config().model))
            if self._config().trainer.sync_batchnorm and has_keras_norms(self.model.network):
                raise UserError(SYNC_REFUSED)
            self.trainer = self.instantiate_trainer()
        if self.resumed is not None:
            check_shapes(self.resumed.path, self.resumed.shapes, self.model.state_dict())

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            with in_one_line(self.trainer.is_global_zero):
                self._run_from_checkpoint(subcommand)
        except BaseException as error:
            if not self._trained.happened:
                self.folder.give_back()
            if isinstance(error, EndedBySignal) and self._trained.ended and self._config().test_at_end:
                last = printable(self.output_dir / LAST_FILE)
                again = f"python -m lightning_cifake fit --ckpt_path {last}"
                error.note = f"training has ended, its test has not. Test with: {again}"
            if isinstance(error, OSError) and error.errno and not (error.filename is None and is_of_output(error)):
                raise UserError(of_the_system(error, self.output_dir)) from error
            raise
        finally:
            self.folder.release()

    def _run_from_checkpoint(self, subcommand: str) -> None:
        try:
            super()._run_subcommand(subcommand)
        except _OF_A_READER as error:
            if self.resumed is None or self._begun.happened or not of_restoring(error):
                raise
            what = "resumed" if subcommand == "fit" else "read"
            raise UserError(
                f"{printable(self.resumed.path)} cannot be {what}: its state is damaged or foreign "
                f"({type(error).__name__}: {reason_of(error)})"
            ) from error

    def after_fit(self) -> None:
        self.seconds["fit"] = time.monotonic() - self._started
        shutdown_process_group()  # a test by all would need the others to wait for its report
        if not self._trained.happened:
            self._say_nothing_was_trained()
        if not self.trainer.is_global_zero:
            return
        if self._config().trainer.fast_dev_run:
            steps = "1 step" if self.trainer.max_steps == 1 else f"{self.trainer.max_steps} steps"
            print(f"fast_dev_run: {steps} and the validation went well; nothing is kept")
            return
        write_history(self.output_dir / HISTORY, self.model.history)
        self._add_experiment()
        if not self._config().test_at_end:
            print(f"run folder: {printable(self.output_dir)}")
            return
        precision = FULL if self.trainer.precision != "64-true" else self.trainer.precision
        # its own trainer: the figures are of full precision, whatever the training took
        tester = L.Trainer(
            accelerator=self._config().trainer.accelerator,
            limit_test_batches=self._config().trainer.limit_test_batches,
            devices=1,
            plugins=[LightningEnvironment()],  # not torchrun's or SLURM's: this process alone
            precision=precision,  # type: ignore[arg-type]
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=self._config().trainer.enable_progress_bar,
        )
        started = time.monotonic()
        tester.test(self.model, datamodule=self.datamodule, verbose=False)
        best = self.output_dir / f"{BEST}.ckpt"
        tested = best if best.is_file() else self.output_dir / f"{LAST}.ckpt"  # there is no best without validation
        self._report(Measured("test", tester, time.monotonic() - started, tested), self.trainer)

    def _add_experiment(self) -> None:
        """Before the test, of which it says nothing."""
        config = self._config()
        if not config.experiments:
            return
        history = self.model.history
        row = best_figures(history, best_epoch(history))
        trained = sum(epoch["train_seconds"] for epoch in history)  # all of a run that was resumed
        row |= {
            "prediction": config.prediction,
            "configuration": self.configuration,
            "seed": config.seed_everything,
            "minutes": max(self.seconds["fit"], trained) / 60,
            "machine": machine_text(machine_of(self.trainer.strategy.root_device)),
        }
        append_experiment(config.experiments, row)

    def _say_nothing_was_trained(self) -> None:
        """A resumed run may have nothing left to do; the figures of a new one would be of random weights."""
        if self._config().ckpt_path:
            log.info("nothing was left to train: %s epochs are behind this run", len(self.model.history))
            return
        images = self.datamodule.split.sizes()["train"] if self.datamodule.split else 0
        error = UserError(
            f"nothing was trained: expected at least one step, got none of the {images:,} training images "
            f"(trainer.max_time: {self._config().trainer.max_time})"
        )
        error.reported_by_rank_zero = not self.trainer.is_global_zero
        raise error

    def before_test(self) -> None:
        if self.subcommand == "test":  # a validation's figures are training's, at 1/2 as it is
            assert self.resumed is not None
            self._calibrated = read_calibration(Path(self._config().ckpt_path), self.resumed.sha256)
        self._prepare_data()
        if self.trainer.is_global_zero:
            self.folder.claim()
        self._started = time.monotonic()

    before_validate = before_test

    def after_test(self) -> None:
        seconds = time.monotonic() - self._started
        if not self.trainer.is_global_zero:
            return
        assert self.resumed is not None
        checkpoint = Path(self._config().ckpt_path)
        measured = Measured(
            str(self.subcommand), self.trainer, seconds, checkpoint, self.resumed.sha256, self._calibrated
        )
        self._report(measured)

    after_validate = after_test

    def _report(self, measured: Measured, fitted: L.Trainer | None = None) -> None:
        facts = run_metadata(measured, self.model, self.datamodule)
        facts["seconds"] |= self.seconds
        if fitted is not None:
            add_training(facts, fitted, self.model.history, self.datamodule.batch_size, self._config().seed_everything)
        write_and_print(self.output_dir, measured, facts, self.model, self.datamodule)
        print(f"the same as a page: {printable(write_page(self.output_dir))}")


def _listed(given: Any) -> list[Any]:
    """The Trainer takes one callback or plugin, or several, or none."""
    return list(given) if isinstance(given, list | tuple) else [] if given is None else [given]


def run(
    command: str,
    arguments: list[str],
    run_name: str,
    resumed: Resumed | None = None,
    run_config: RunConfig | None = None,
) -> None:
    """Runs ``fit``, ``validate`` or ``test`` with LightningCLI's arguments.

    Args:
        command: which of them.
        arguments: what follows it.
        run_name: names the folder of a new run.
        resumed: the checkpoint that ``--ckpt_path`` names.
        run_config: the configuration of its run, which ``arguments`` already hold.
    """
    # ours are one loader that gives indices and a validation that sees everything at once: these do not apply
    warnings.filterwarnings("ignore", ".*LightningCLI's args parameter is intended.*")
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")  # what is frozen is so on purpose
    warnings.filterwarnings("ignore", ".*is smaller than the logging interval.*")
    warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated.*")
    # a schedule of steps, where fp16's scaler leaves the first step out
    warnings.filterwarnings("ignore", ".*lr_scheduler.step.. before .optimizer.step.*")
    warnings.filterwarnings("ignore", ".*recommended to use `self.log.*sync_dist=True.*")  # they are of all processes
    # TensorBoard imports TensorFlow where it is installed (four seconds and its greetings) unless this module is there
    sys.modules.setdefault("tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    keep_freed_memory()
    with in_one_line():
        Cli([command, *arguments], run_name, resumed, run_config)
