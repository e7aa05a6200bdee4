"""The command ``push``: a model to the Hugging Face Hub, with its card. Shows what would go; sends it when told to."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning_cifake import shipped
from lightning_cifake.commands.parsing import Parser
from lightning_cifake.commands.torch_side import import_training_side
from lightning_cifake.console import print_rows
from lightning_cifake.errors import UserError
from lightning_cifake.extras import require
from lightning_cifake.files import expand_user, sha256_of
from lightning_cifake.front_matter import split_front_matter
from lightning_cifake.hub import README, SCHEME
from lightning_cifake.hub_upload import Plan, Upload, plan, repo_name, send
from lightning_cifake.model_kinds import model_kind
from lightning_cifake.text import printable

EXAMPLES = """examples:
  python -m lightning_cifake push model.onnx --to owner/name                           shows what would go
  python -m lightning_cifake push model.onnx --to owner/name --evaluation evaluations/mine --send
  python -m lightning_cifake push checkpoints/clean/1/best.ckpt --to owner/name --license mit --send

An exported model goes as it is, with its manifest; a checkpoint as model.safetensors and config.json, which hold its
weights, its network's name and what it was trained on, and nothing of the optimizer. What calibrate left beside it goes
as model.safetensors.calibration.json, so that it answers there as it does here. A card goes with it: of an evaluation
where one is named, else of what was measured as it was exported. All of it is one commit to main, of what differs from
what is there.

The token is that of `hf auth login`, or HF_TOKEN; it is never printed. A new repository is private, until you say
otherwise on its page, or give --public: what was public once cannot be taken back.
"""


def add_arguments(parser: Parser) -> None:
    parser.teach(
        "Sends a model to the Hugging Face Hub. Without --send nothing is sent: it shows what would be.", EXAMPLES
    )
    parser.add_argument(
        "model",
        type=str,
        metavar="MODEL",
        help="a checkpoint, what export wrote, or a model that comes with the package",
    )
    parser.add_argument(
        "--to", type=str, required=True, metavar="OWNER/NAME", help="the repository, made where missing"
    )
    parser.add_argument(
        "--evaluation", type=Path, metavar="FOLDER", help="what evaluate wrote of this model: the card's figures"
    )
    parser.add_argument("--card", type=Path, metavar="FILE.md", help="this card in place of a made one")
    parser.add_argument("--license", type=str, metavar="NAME", help="as the Hub names them: mit, apache-2.0, ...")
    parser.add_argument("--message", type=str, default="Model and card", help="of the commit (default: %(default)s)")
    parser.add_argument("--public", action="store_true", help="makes a new repository that everybody sees")
    parser.add_argument("--send", action="store_true", help="sends it")


def run(options: Any) -> int:
    """Shows what would go, and with ``--send`` sends it; 0.

    Raises:
        UserError: the arguments, the model, its evaluation or card; with ``--send``, what the Hub does not allow.
    """
    repo = repo_name(options.to)
    if options.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,40}", options.license):
        raise UserError(f"--license: expected a name as the Hub has them (mit), got {printable(options.license)}")
    if options.card is not None and options.evaluation is not None:
        raise UserError("expected --card or --evaluation, got both")
    require("hub", "huggingface_hub", "safetensors", what="push")
    path = shipped.model_file(None if options.model == shipped.DEFAULT else options.model)
    if not path.is_file():
        raise UserError(f"there is no file {printable(path)}: expected a checkpoint, or what export wrote")
    with TemporaryDirectory() as folder:
        files, card = (
            _weights(path, repo, options, Path(folder)) if _is_checkpoint(path) else _onnx(path, repo, options)
        )
        planned = plan(Upload(repo, {README: card.encode(), **files}), compare=options.send)
        _show(planned, card, options.public)
        if not options.send:
            print("nothing was sent: add --send to send it")
            return 0
        address = send(planned, not options.public, options.message)
    print(
        f"nothing differs from {SCHEME}{repo}: nothing was sent" if address is None else f"sent: {printable(address)}"
    )
    return 0


def _is_checkpoint(path: Path) -> bool:
    kind = model_kind(path)
    if kind == "Keras":
        raise UserError(f"{printable(path)} is a Keras file: make a checkpoint of it with `convert` first")
    return kind == "checkpoint"


def _onnx(path: Path, repo: str, options: Any) -> tuple[dict[str, bytes | Path], str]:
    """An exported model and its manifest, both checked."""
    from lightning_cifake.deploy.detector import Detector
    from lightning_cifake.deploy.manifest import manifest_path, read_manifest

    detector = Detector(path)
    manifest, _ = read_manifest(path)
    beside = manifest_path(path)
    return {path.name: path, beside.name: beside}, _card(repo, detector.sha256, options, manifest)


def _weights(path: Path, repo: str, options: Any, folder: Path) -> tuple[dict[str, bytes | Path], str]:
    """A checkpoint's weights in a form that holds no code, and its calibration, where it has one."""
    import_training_side("push of a checkpoint")
    from lightning_cifake.deploy.loaded_model import load_model
    from lightning_cifake.evaluation.checkpoint_calibration import write_calibration
    from lightning_cifake.pretrained import WEIGHTS

    loaded = load_model(path)
    written = loaded.classifier.save_pretrained(folder, loaded.training)
    if (calibrated := loaded.calibrated()) is not None:  # of the checkpoint; from here on of its weights
        weights = folder / WEIGHTS
        written.append(write_calibration(weights, sha256_of(weights), calibrated))
    return {each.name: each for each in written}, _card(repo, sha256_of(path), options, None)


def _card(repo: str, sha256: str, options: Any, manifest: dict[str, Any] | None) -> str:
    if options.card is not None:
        try:
            card = expand_user(options.card).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UserError(f"--card: {printable(options.card)} cannot be read as text") from error
        split_front_matter(card, f"--card {printable(options.card)}")
        return card
    from lightning_cifake.assessment.hub_card import card as made_card

    evaluation = None if options.evaluation is None else expand_user(options.evaluation)
    return made_card(repo, sha256, manifest is None, evaluation, manifest, options.license)


def _show(planned: Plan, card: str, public: bool) -> None:
    rows = [[each.name, each.state, f"{each.size:,}", each.sha256] for each in planned.files]
    print_rows(["file", "", "bytes", "SHA-256"], rows, words=2)
    print(f"{README}:\n")
    print("\n".join(f"    {printable(line)}" for line in card.rstrip().splitlines()))
    print()
    place = f"{SCHEME}{planned.upload.repo}"
    if planned.reason is not None:
        print(f"to {place}; not compared with what is there: {planned.reason}")
    elif planned.commit is None:
        print(f"to {place}, a new repository, {'public' if public else 'private'}")
    else:
        seen = "" if planned.private is None else ", private" if planned.private else ", public"
        print(f"to {place}, at commit {planned.commit[:12]}{seen}")
    if "license" not in split_front_matter(card)[0]:
        print("note: the card names no licence: without one nobody may use the model; give --license")
    models = {each for each in [*planned.there, *planned.upload.files] if each.endswith(".onnx")}
    if len(models) > 1:
        print(f"note: {place} will hold several exported models, to be named each: {', '.join(sorted(models))}")
