"""Early stopping as Keras does it: the best weights come back at the end, whether it stopped or not."""

from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lightning_cifake.training.checkpoints import read_checkpoint

PATIENCE = 3


class KerasEarlyStopping(EarlyStopping):
    """Stops when ``val_loss`` has not fallen for ``patience`` epochs.

    As Keras, and unlike Lightning: a NaN is an epoch without improvement, not the end, and the first epoch never stops.
    Source: keras/src/callbacks/early_stopping.py.
    """

    def __init__(self, patience: int = PATIENCE, monitor: str = "val_loss") -> None:
        super().__init__(monitor=monitor, patience=patience, mode="min", min_delta=0.0, check_finite=False)

    def _run_early_stopping_check(self, trainer: L.Trainer) -> None:
        before = trainer.should_stop
        super()._run_early_stopping_check(trainer)
        if trainer.current_epoch == 0:
            trainer.should_stop = before


class RestoreBestWeights(L.Callback):
    """Gives the model its best epoch's weights when training ends, as Keras's ``restore_best_weights``."""

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        best = next((c.best_model_path for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)), "")
        if best:
            pl_module.load_state_dict(read_checkpoint(Path(best), pl_module.device)["state_dict"], strict=True)
