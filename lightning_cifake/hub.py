"""Models on the Hugging Face Hub, by ``hf://owner/name[@revision][/file]``: named, fetched into its cache, and checked.

    path = fetch("hf://owner/name")          # model.onnx in the Hub's cache, its manifest beside it

Only ``.onnx`` and ``.safetensors`` are taken, neither of which holds code; of what else a repository has, nothing is
read. ``huggingface_hub`` is imported when a name is asked for, and not before.
"""

import hashlib
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote

from lightning_cifake.errors import UserError
from lightning_cifake.extras import require
from lightning_cifake.files import read_json, sha256_of
from lightning_cifake.text import printable, reason_of, shorten

log = logging.getLogger(__name__)

SCHEME = "hf://"
ONNX, SAFETENSORS = ".onnx", ".safetensors"
CONFIG = "config.json"  # beside weights: what builds their network
README = "README.md"  # of a repository: its model's card
CALIBRATION = ".calibration.json"  # behind the name of weights or of a checkpoint: what calibrate found
RECORD = f"trained_on{SAFETENSORS}"  # beside them too: digests of the images that they were trained on
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".h5", ".keras")
_NAME = re.compile(
    r"hf://(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>refs/[\w.-]+/[\w.-]+|[^/@]+))?(?:/(?P<file>.+))?", re.ASCII
)
_SECONDS = 10.0  # for the Hub to answer
_LISTED = 5


class _Lost(UserError):
    """The Hub cannot be reached."""


def is_lost(error: UserError) -> bool:
    """Whether it says that the Hub cannot be reached."""
    return isinstance(error, _Lost)


class HubName(NamedTuple):
    """``hf://owner/name[@revision][/file]``, taken apart; None where a part is not given."""

    text: str
    repo: str
    revision: str | None = None
    file: str | None = None


class _Listing(NamedTuple):
    """A repository at one commit: its files, and where they lie where they are in the cache already."""

    commit: str
    files: Sequence[str]
    folder: Path | None = None


def is_hub_name(model: object) -> bool:
    """Whether a model's name is one of the Hub."""
    return isinstance(model, str) and model.startswith(SCHEME)


def parse_name(text: str) -> HubName:
    """Takes a name apart.

    Raises:
        UserError: it is none, or one that would lead out of the cache.
    """
    found = _NAME.fullmatch(text)
    expected = f"{printable(shorten(text, 100))}: expected hf://owner/name, hf://owner/name@revision or .../file"
    if found is None:
        raise UserError(expected)
    repo, revision, file = found["repo"], found["revision"], found["file"]
    revision = None if revision is None else unquote(revision)  # a branch with a slash is written with %2F
    for part in (*repo.split("/"), *(revision or "x").split("/"), *(file or "x").split("/")):
        if part in ("", ".", "..") or "\\" in part or not part.isprintable():
            raise UserError(f"{expected}, got {printable(repr(part))} in it")
    if re.search(r"--|\.\.|(^|/)[.-]|[.-](/|$)", repo) or repo.endswith(".git") or max(map(len, repo.split("/"))) > 96:
        raise UserError(f"{expected}: {printable(repo)} is no name that the Hub gives")
    return HubName(text, repo, revision, file)


_fetched: dict[tuple[str, bool, str, str], Path] = {}


def fetch(text: str, weights: bool = False) -> Path:
    """The file of a model of the Hub, in its cache, checked by the digest that the Hub keeps of it.

    Beside it lies what belongs to it: an exported model's manifest and card, or the ``config.json`` of weights. It is
    asked for once in a process: who asks twice gets the same file. Where the Hub cannot be reached, or
    ``HF_HUB_OFFLINE`` is set, the cache answers.

    Args:
        text: ``hf://owner/name[@revision][/file]``.
        weights: prefers ``.safetensors`` where there is an exported model too.

    Raises:
        UserError: no such name, model, revision or file; not allowed; the Hub cannot be reached; only files that could
            hold code; damaged.
        MissingExtra: huggingface_hub is not installed.
    """
    name = parse_name(text)
    hub = library(text)
    key = (text, weights, hub.constants.HF_HUB_CACHE, hub.constants.ENDPOINT)
    if key in _fetched and _fetched[key].exists():
        return _fetched[key]
    with hub_errors(name, hub):
        listing = _listed(name, hub)
        chosen = _chosen(name, listing.files, weights)
        beside = _beside(chosen, listing.files)
        if listing.folder is None:
            # the first by the name of its revision: the cache remembers what that was, for when there is no network
            path = _download(hub, name, chosen, name.revision or hub.constants.DEFAULT_REVISION)
            commit = _commit_of(path, chosen)
            for each in beside:
                _download(hub, name, each, commit)
        else:
            path, commit = listing.folder / chosen, listing.commit
    siblings = [_sibling(path, chosen, other) for other in beside]
    for found in (path, *siblings):
        _check(found, text)
    for sibling in siblings:
        if sibling.suffix == ".json":
            _check_said(path, sibling, text)
    log.info("%s: %s of commit %s", printable(text), printable(chosen), commit[:12])
    _fetched[key] = path
    return path


def library(what: str) -> Any:
    """huggingface_hub, whose progress bars are for a terminal.

    Raises:
        MissingExtra: it is not installed; the sentence begins with ``what``.
    """
    require("hub", "huggingface_hub", what=printable(shorten(what, 100)))
    import huggingface_hub
    import huggingface_hub.constants
    import huggingface_hub.errors

    if sys.stderr is None or not sys.stderr.isatty():
        from huggingface_hub.utils import disable_progress_bars

        if "HF_HUB_DISABLE_PROGRESS_BARS" not in os.environ:
            disable_progress_bars()
    return huggingface_hub


def _listed(name: HubName, hub: Any) -> _Listing:
    """From the Hub, else from the cache."""
    if hub.constants.HF_HUB_OFFLINE:
        return _cached(name, hub, "HF_HUB_OFFLINE is set")
    try:
        info = hub.HfApi().model_info(name.repo, revision=name.revision, timeout=_SECONDS)
    except Exception as error:  # of the library's HTTP client, which was another one in each of its versions
        if not _unreachable(error):
            raise
        found = _cached(name, hub, f"{_host(hub)} cannot be reached ({reason_of(error, 100)})")
        log.warning("%s: %s cannot be reached: taken from the cache", printable(name.text), _host(hub))
        return found
    return _Listing(info.sha, [each.rfilename for each in info.siblings or ()])


def _cached(name: HubName, hub: Any, reason: str) -> _Listing:
    """What the cache has of a revision: its layout is documented, ``refs/REVISION`` and ``snapshots/COMMIT/``."""
    storage = Path(hub.constants.HF_HUB_CACHE) / f"models--{name.repo.replace('/', '--')}"
    commit = revision = name.revision or hub.constants.DEFAULT_REVISION
    try:
        if not re.fullmatch(r"[0-9a-f]{40}", revision):
            commit = (storage / "refs" / revision).read_text().strip()
        folder = storage / "snapshots" / commit
        files = sorted(each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file())
    except OSError:
        files = []
    if not files or not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise UserError(f"{printable(name.text)}: {reason}, and the cache holds nothing of it")
    return _Listing(commit, files, folder)


def _chosen(name: HubName, files: Sequence[str], weights: bool) -> str:
    """The one file that is meant."""
    shown = printable(name.text)
    if name.file is not None:
        if name.file not in files:
            raise UserError(f"{shown}: there is no such file in it: {_some(files)}")
        if not name.file.endswith((ONNX, SAFETENSORS)):
            raise _refused(name, [name.file])
        return name.file
    models = [
        [each for each in files if each.endswith(suffix) and PurePosixPath(each).name != RECORD]
        for suffix in (ONNX, SAFETENSORS)
    ]
    found = next((each for each in (reversed(models) if weights else models) if each), [])
    if len(found) > 1:
        at = name.text.rstrip("/")
        raise UserError(f"{shown} holds several models: expected one of {', '.join(f'{at}/{each}' for each in found)}")
    if not found:
        raise _refused(name, files)
    return found[0]


def _refused(name: HubName, files: Sequence[str]) -> UserError:
    pickles = [each for each in files if each.endswith(_PICKLES)]
    if pickles:
        return UserError(
            f"{printable(name.text)}: {printable(pickles[0])} could run code as it is read: of the Hub only .onnx and "
            ".safetensors are taken"
        )
    return UserError(f"{printable(name.text)} holds no model: expected a .onnx or a .safetensors file, {_some(files)}")


def _some(files: Sequence[str]) -> str:
    rest = f" and {len(files) - _LISTED} more" if len(files) > _LISTED else ""
    return f"got {', '.join(printable(each) for each in files[:_LISTED]) or 'no files'}{rest}"


def _beside(chosen: str, files: Sequence[str]) -> list[str]:
    """What is read with it: ``model.json`` and the card of ``model.onnx``; ``config.json``, record and calibration of
    weights."""
    at = PurePosixPath(chosen)
    of_weights = [at.with_name(CONFIG), at.with_name(RECORD), at.with_name(f"{at.name}{CALIBRATION}")]
    others = [at.with_suffix(".json"), at.with_name(README)] if chosen.endswith(ONNX) else of_weights
    return [str(other) for other in others if str(other) in files]


def _sibling(path: Path, chosen: str, other: str) -> Path:
    return path.parents[len(PurePosixPath(chosen).parts) - 1] / other


def _download(hub: Any, name: HubName, file: str, revision: str) -> Path:
    return Path(hub.hf_hub_download(name.repo, file, revision=revision, etag_timeout=_SECONDS))


def _commit_of(path: Path, file: str) -> str:
    """``.../snapshots/COMMIT/file``"""
    return path.parents[len(PurePosixPath(file).parts) - 1].name


def _check(path: Path, text: str) -> None:
    """Holds a file of the cache against the digest that it lies there under: SHA-256 of a large one, git's of others.

    Where a disk has no links, the cache keeps none.
    """
    if not path.is_symlink():
        return
    blob = path.readlink().name  # not what that leads to in turn: a store shared by several caches
    if re.fullmatch(r"[0-9a-f]{64}", blob):
        found = sha256_of(path)
    elif re.fullmatch(r"[0-9a-f]{40}", blob):
        content = path.read_bytes()
        found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    else:
        return
    if found != blob:
        raise UserError(
            f"{printable(text)}: {printable(path.name)} in the cache is not what the Hub holds: expected {blob}, got "
            f"{found}; remove {printable(path.resolve())} and ask again"
        )


def _check_said(path: Path, other: Path, text: str) -> None:
    """Holds a model against what lies beside it: somebody may have put another one in its place, whole as it is."""
    described = read_json(other)[0].get("model")
    said = described.get("sha256") if isinstance(described, dict) else None
    if said is not None and said != (found := sha256_of(path)):
        raise UserError(
            f"{printable(text)}: {printable(path.name)} is not the file that {printable(other.name)} beside it was "
            f"written for: expected SHA-256 {shorten(printable(said), 64)}, got {found}"
        )


@contextmanager
def hub_errors(name: HubName, hub: Any) -> Iterator[None]:
    """What the library raises, as one line that says what to do.

    Raises:
        UserError: in its place; what it does not know goes on as it is.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # an upload's error is a RuntimeError around the one that says why
        found = _said(error, name, hub) or (error.__cause__ and _said(error.__cause__, name, hub))
        if not found:
            raise
        raise found from error


def _said(error: BaseException, name: HubName, hub: Any) -> UserError | None:
    shown, host, errors = printable(name.text), _host(hub), hub.errors
    if isinstance(error, errors.GatedRepoError):
        return UserError(f"{shown} is gated: ask for access on its page, then log in with `hf auth login`")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(
            f"{shown}: {host} has no model {name.repo} that you may see: check its name; if it is private, log in with "
            "`hf auth login`, or set HF_TOKEN"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"{shown}: {name.repo} has no revision {printable(name.revision or 'main')}")
    if isinstance(error, errors.HfHubHTTPError):
        return UserError(_of_status(shown, error, hub))
    if isinstance(error, errors.OfflineModeIsEnabled):
        return _Lost(f"{shown}: HF_HUB_OFFLINE is set")
    if _unreachable(error):
        return _Lost(f"{shown}: {host} cannot be reached ({reason_of(error, 100)})")
    return UserError(f"{shown}: {reason_of(error)}") if isinstance(error, OSError) else None


def _of_status(shown: str, error: Any, hub: Any) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is None:  # not found in the cache, and the Hub gone in between
        return f"{shown}: {_host(hub)} cannot be reached ({reason_of(error, 100)})"
    if status in (401, 403):
        return (
            f"{shown}: {_host(hub)} does not allow it ({status}): log in with `hf auth login`, or set HF_TOKEN to a "
            "token that may"
        )
    if status == 429:
        return f"{shown}: {_host(hub)} takes no more requests for now (429): try again later"
    return f"{shown}: {_host(hub)} answered {status} ({reason_of(error, 150)})"


def _unreachable(error: BaseException) -> bool:
    """Of the HTTP client's own errors, which share no name across the library's versions; or the system's."""
    kind = type(error)
    return isinstance(error, (ConnectionError, TimeoutError)) or any(
        each.__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "requests", "urllib3")
        and each.__name__ in ("TransportError", "RequestException", "HTTPError")
        and not hasattr(error, "server_message")
        for each in kind.__mro__
    )


def _host(hub: Any) -> str:
    return printable(str(hub.constants.ENDPOINT).partition("://")[2].partition("/")[0].rpartition("@")[2] or "the Hub")
