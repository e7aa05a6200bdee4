"""A teacher: a trained network whose answers about the augmented images are learnt beside their labels.

Source: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015, section 2; that the teacher sees
the same augmented images as its student is Beyer et al., Knowledge distillation: A good teacher is patient and
consistent, CVPR 2022.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from lightning_cifake.checkpoint import load_strictly, network_state, read_checkpoint
from lightning_cifake.data import trained_on
from lightning_cifake.errors import UserError
from lightning_cifake.files import expand_user, sha256_of
from lightning_cifake.migration import migrate_model
from lightning_cifake.networks.contract import check_logits
from lightning_cifake.networks.registry import build_network
from lightning_cifake.text import printable
from lightning_cifake.training.loss import Loss

NO_TEACHER = "none"
SHARE, TEMPERATURE = 0.5, 2.0
KEY = "teacher"  # of a checkpoint: the SHA-256 of its run's teacher


class Distillation:
    """A teacher and how much it counts. No module: none of it is in its student's parameters and checkpoints.

    Args:
        teacher: a checkpoint, or ``none``; it is read when training begins.
        share: of the loss that is the teacher's, in [0, 1]; the rest is the labels'.
        temperature: above 0; what both networks' logits are divided by for the teacher's part.

    Raises:
        UserError: a share or a temperature that is none, or that is given without a teacher.
    """

    def __init__(self, teacher: str = NO_TEACHER, share: float = SHARE, temperature: float = TEMPERATURE) -> None:
        if not 0 <= share <= 1 or not 0 < temperature < float("inf"):
            raise UserError(
                "expected model.teacher_share from 0 to 1 and model.teacher_temperature above 0, got "
                f"{share} and {temperature}"
            )
        if teacher == NO_TEACHER and (share, temperature) != (SHARE, TEMPERATURE):
            raise UserError("model.teacher_share, model.teacher_temperature: expected with --model.teacher CKPT")
        self.path = None if teacher == NO_TEACHER else expand_user(teacher)
        self.share, self.temperature = share, temperature
        self.record: trained_on.Record = []
        """What the teacher was trained on, once it has been read."""
        self._network: nn.Module | None = None
        self._sha256: str | None = None
        self._resumed, self._before = False, None

    def begin(self, student: nn.Module, image_size: int, channels_last: bool = False, compiled: bool = False) -> None:
        """Reads the teacher, to where the student is and in the type and form of its weights.

        Its ``test_flips`` are left out: the student sees an image's mirror another time.

        Raises:
            UserError: it cannot be read, takes images of another size, or is not the one of the run that is resumed.
        """
        if self.path is not None:
            self._sha256 = sha256_of(self.path) if self.path.is_file() else None  # else it is refused as it is read
            network, size, self.record = read_network(self.path)
            if size is not None and size != image_size:
                raise UserError(
                    f"model.teacher: {printable(self.path)} takes images of {size}, got data.image_size {image_size}"
                )
            like = next(student.parameters())
            network = network.to(like.device, like.dtype).eval().requires_grad_(False)
            if channels_last:
                network = network.to(memory_format=torch.channels_last)
            self._network = cast(nn.Module, torch.compile(network, dynamic=False)) if compiled else network
        if self._resumed and self._before != self._sha256:
            was, now = (f"{digest[:12]}..." if digest else "none" for digest in (self._before, self._sha256))
            raise UserError(f"model.teacher: a resumed run keeps its teacher: expected SHA-256 {was}, got {now}")

    def loss(
        self, own: Tensor, reduced: Callable[[Loss, Tensor, Tensor], Tensor], logits: Tensor, images: Tensor
    ) -> Tensor:
        """The student's loss with the teacher's part; its own one where there is no teacher.

        ``(1 - share) own + share T² BCE(logits / T, sigmoid(teacher's logits / T))``: T² keeps the gradients' size.

        Args:
            own: of the labels, a scalar.
            reduced: made it of a loss over (N,) logits and (N,) targets: ``mean_loss`` or ``summed_loss``.
            logits: (N,), the student's.
            images: (N, 3, S, S), what it saw.
        """
        if self._network is None:
            return own
        with torch.no_grad():
            answers = self._network(images)
            check_logits(answers, images, self._network)
            wide = torch.promote_types(answers.dtype, torch.float32)
            targets = (answers.to(wide) / self.temperature).sigmoid()
        taught = reduced(nn.BCEWithLogitsLoss(), logits.to(wide) / self.temperature, targets)
        return (1 - self.share) * own + self.share * self.temperature**2 * taught

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Puts which teacher it was into a checkpoint."""
        if self._sha256 is not None:
            checkpoint[KEY] = self._sha256

    def resume(self, checkpoint: Mapping[str, Any]) -> None:
        """Holds the teacher against the one of a checkpoint, when training begins."""
        self._resumed, self._before = True, checkpoint.get(KEY)


def read_network(path: Path) -> tuple[nn.Module, int | None, trained_on.Record]:
    """A checkpoint's network, the side of its images where it is known, and what it was trained on.

    Raises:
        UserError: no such file, damaged, or of another model.
    """
    content = read_checkpoint(path)
    given = content.get("hyper_parameters")
    spec = migrate_model(given).get("network") if isinstance(given, Mapping) else None
    if spec is None:
        raise UserError(f"{printable(path)}: no class path names its network: expected a checkpoint of fit")
    with torch.random.fork_rng(devices=[]):  # its first weights draw none of the numbers of its student's run
        network = build_network(spec)
    load_strictly(network, network_state(content["state_dict"]), printable(path))
    size = getattr(network, "image_size", content.get("image_size"))
    return network, size if isinstance(size, int) else None, trained_on.record_of(content, path)
