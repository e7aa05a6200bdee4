"""Weights as the Hub keeps them: ``model.safetensors`` and, beside it, the ``config.json`` that builds their network.

Neither holds code, and of the network's class only this package's own are taken: a file from elsewhere names no module
to import.
"""

from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_cifake.errors import UserError
from lightning_cifake.extras import require
from lightning_cifake.files import read_json, sealed_json, sha256_of, write_whole
from lightning_cifake.hub import CONFIG, RECORD, SAFETENSORS
from lightning_cifake.text import printable, reason_of, shorten

WEIGHTS = f"model{SAFETENSORS}"
LIBRARY = "lightning_cifake"
_OWN = f"{LIBRARY}.networks."
_TENSORS = ("names", "pixels")  # of an entry of the record


def write_pretrained(
    folder: Path,
    state: Mapping[str, Tensor],
    network: Mapping[str, Any] | None,
    known: Mapping[str, Any],
    record: list[dict[str, Any]],
) -> list[Path]:
    """Writes the files, each whole; returns them.

    Args:
        folder: made where missing.
        state: the module's ``state_dict``.
        network: ``class_path`` and ``init_args``; None of a network that no class path names.
        known: ``image_size``, ``test_flips``, and what is known of the training.
        record: as :mod:`~lightning_cifake.data.trained_on` keeps it.

    Raises:
        UserError: it cannot be written.
        MissingExtra: safetensors is not installed.
    """
    require("hub", "safetensors", what="safetensors")
    from safetensors.torch import save

    # contiguous copies: weights that share memory are one tensor each in the file
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    written = [folder / WEIGHTS]
    # the mark that other libraries look for
    write_whole(written[0], save(tensors, metadata={"format": "pt"}))
    entries = [{name: value for name, value in entry.items() if name not in _TENSORS} for entry in record]
    content: dict[str, Any] = {
        "library_name": LIBRARY,
        "library_version": metadata.version(LIBRARY),
        "output": "one logit an image, of P(REAL); images float RGB (N, 3, S, S) in [0, 1]",
        "network": None if network is None else dict(network),
        **known,
        "model": {"file": WEIGHTS, "sha256": sha256_of(written[0])},
        "trained_on": entries,
    }
    digests = {f"{at}.{name}": entry[name].contiguous().clone() for at, entry in enumerate(record) for name in _TENSORS}
    if any(len(each) for each in digests.values()):
        written.append(folder / RECORD)
        write_whole(written[-1], save(digests))
        content["trained_on_file"] = {"file": RECORD, "sha256": sha256_of(written[-1])}
    written.append(folder / CONFIG)
    write_whole(written[-1], sealed_json(content))
    return written


def read_pretrained(path: Path, network_given: bool = False) -> dict[str, Any]:
    """The weights and what builds their network, in the form of a checkpoint that holds no more.

    Args:
        path: the ``.safetensors`` file.
        network_given: the caller builds it himself: it may be of any package.

    Raises:
        UserError: one of the files is missing, damaged or not of this project; a network of another package.
        MissingExtra: safetensors is not installed.
    """
    shown, beside = printable(path), path.with_name(CONFIG)
    if not path.is_file():
        raise UserError(f"there is no file {shown}")
    if not beside.is_file():
        raise UserError(f"{shown} holds weights alone: expected {CONFIG} beside it, as push writes it")
    content, _ = read_json(beside)
    if content.get("library_name") != LIBRARY or not isinstance(content.get("model"), dict):
        raise UserError(f"{printable(beside)} is not of this project: expected what push or save_pretrained wrote")
    _require_digest(path, content["model"].get("sha256"))
    spec = content.get("network")
    for named in () if network_given else _class_paths(spec):
        if not named.startswith(_OWN):
            raise UserError(
                f"{shown} is of the network {printable(shorten(named, 80))}, which is not this package's: no code is "
                "taken from elsewhere; give the network itself, from_pretrained(..., network=YourNetwork())"
            )
    arguments = {"network": spec, "test_flips": content.get("test_flips") is True}
    found = {"state_dict": read_tensors(path), "hyper_parameters": arguments, "trained_on": _record(path, content)}
    # as if written now: Lightning migrates what an older version of it wrote
    lightning = {"pytorch-lightning_version": metadata.version("lightning"), "epoch": 0, "global_step": 0}
    training = content.get("training")
    return {
        **found,
        **lightning,
        "image_size": content.get("image_size"),
        "training": training if isinstance(training, dict) else {},
    }


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, on the CPU.

    Raises:
        UserError: it is none, or damaged.
        MissingExtra: safetensors is not installed.
    """
    require("hub", "safetensors", what=f"{printable(path.name)}")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"{printable(path)} is no safetensors file, or damaged ({reason_of(error)})") from error


def _record(path: Path, content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Without its digests where their file was not fetched: then it says of which split they were, and no more."""
    entries = content.get("trained_on")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return []
    described, beside = content.get("trained_on_file"), path.with_name(RECORD)
    tensors: dict[str, Tensor] = {}
    if isinstance(described, dict) and beside.is_file():
        _require_digest(beside, described.get("sha256"))
        tensors = read_tensors(beside)
    none = torch.zeros(0, dtype=torch.int64)
    return [
        {**entry, **{name: tensors.get(f"{at}.{name}", none) for name in _TENSORS}} for at, entry in enumerate(entries)
    ]


def _require_digest(path: Path, said: Any) -> None:
    if said != (found := sha256_of(path)):
        raise UserError(
            f"{printable(path)} is not the file that {CONFIG} beside it was written for: expected SHA-256 "
            f"{shorten(printable(said), 64)}, got {found}"
        )


def _class_paths(spec: Any, depth: int = 0) -> Iterator[str]:
    """All that names a class in a specification: an ensemble's members are in its arguments."""
    if depth > 20:
        raise UserError(f"{CONFIG}: its network is nested too deep")
    if isinstance(spec, dict):
        for key, value in spec.items():
            if key in ("class_path", "network") and isinstance(value, str):
                yield value
            else:
                yield from _class_paths(value, depth + 1)
    elif isinstance(spec, list):
        for value in spec:
            yield from _class_paths(value, depth + 1)
