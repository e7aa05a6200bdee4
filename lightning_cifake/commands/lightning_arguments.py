"""The arguments of ``fit``, ``validate`` and ``test``: of the data, the model, Lightning's Trainer, and of the run."""

from typing import Any

import lightning as L
from jsonargparse import ActionYesNo
from jsonargparse.typing import PositiveInt
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from lightning_cifake.commands.configurations import shipped_configs
from lightning_cifake.commands.lightning_help import Formatter
from lightning_cifake.commands.model_arguments import add_model_arguments
from lightning_cifake.commands.parsing import ConfigFile, RightNames
from lightning_cifake.commands.program import program
from lightning_cifake.data.datamodule import CIFAKEDataModule
from lightning_cifake.training.early_stopping import PATIENCE

TRAINER_DEFAULTS: dict[str, Any] = {
    "max_epochs": 10,
    "devices": 1,
    "num_sanity_val_steps": 0,  # the data has been looked at before the first step
    "log_every_n_steps": 10,
    "enable_model_summary": False,
}


class TrainingParser(RightNames, LightningArgumentParser):
    """LightningCLI's, with the right name for a misspelt flag."""


class TrainingArguments(LightningCLI):
    """What is asked, and its help; :class:`~lightning_cifake.commands.lightning_cli.Cli` does it."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        # an error is raised, to be one line, where it would print its usage and exit
        kwargs.setdefault("dump_header", [f"lightning.pytorch=={L.__version__}"])
        kwargs |= {"prog": program(), "exit_on_error": False, "allow_abbrev": False, "formatter_class": Formatter}
        parser = TrainingParser(**kwargs)
        parser.add_argument(
            "-c",
            "--config",
            action=ConfigFile,
            metavar="FILE",
            help=f"a YAML file, or one of {', '.join(shipped_configs())}; a later one is merged over an earlier one",
        )
        return parser

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        base = LightningCLI.subcommands()
        return {name: base[name] for name in ("fit", "validate", "test")}

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """As Lightning's own, but that the model's classes stay in words: the model makes them itself."""
        parser.add_lightning_class_args(L.Trainer, "trainer")
        parser.set_defaults({f"trainer.{name}": value for name, value in self.trainer_defaults.items()})
        add_model_arguments(parser)
        parser.add_lightning_class_args(CIFAKEDataModule, "data")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--output_dir",
            type=str | None,
            default=None,
            help="where the results go (default: fit makes checkpoints/<config>/<number>, or continues in the folder "
            "of --ckpt_path; validate and test make a folder beside the checkpoint)",
        )
        parser.add_argument(
            "--patience",
            type=int,
            default=PATIENCE,
            help="fit: validations in a row without a lower val_loss before it stops, counted from the second epoch "
            "on; one an epoch, unless trainer.val_check_interval or trainer.check_val_every_n_epoch say otherwise",
        )
        parser.add_argument(
            "--checkpoint_minutes", type=float, default=10.0, help="fit: longest time between two writes of last.ckpt"
        )
        parser.add_argument(
            "--threads",
            type=PositiveInt | None,
            default=None,
            help="that compute on a CPU, throughout, so that a run repeats to the last bit (default: all cores, fewer "
            "while other processes compute; OMP_NUM_THREADS where that is set)",
        )
        parser.add_argument("--test_at_end", type=bool, default=True, help="fit: tests the best epoch once, at the end")
        parser.add_argument(
            "--experiments",
            type=str | None,
            default=None,
            metavar="FILE",
            help="fit: a CSV file, to which the run appends a row at its end: the prediction, the configuration, the "
            "seed, minutes, and the figures of its best epoch in training and validation",
        )
        parser.add_argument(
            "--prediction",
            type=str | None,
            default=None,
            metavar="TEXT",
            help="fit --experiments: what is expected of the run, and why",
        )
        parser.add_argument(
            "--overwrite",
            action=ActionYesNo,
            nargs="?",
            default=False,
            help="fit: removes the run that --output_dir holds, and trains anew in its place",
        )
        parser.add_argument(
            "--new_data",
            action=ActionYesNo,
            nargs="?",
            default=False,
            help="fit --ckpt_path: resumes with other images than the run was trained on; best.ckpt and the patience "
            "are counted anew, and what was ever trained on stays recorded",
        )
