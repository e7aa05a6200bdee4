"""Fetches the author's CIFAKE archive, resuming broken transfers, and keeps it only if every image is as published."""

import json
import re
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, InvalidURL
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, url2pathname, urlopen

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from lightning_cifake.data.manifest import CIFAKE_DIGEST, verify_archive
from lightning_cifake.errors import UserError

__all__ = ["CIFAKE_COMMIT", "CIFAKE_DIGEST", "CIFAKE_URL", "download_cifake", "verify_archive"]

CIFAKE_COMMIT = "e112a942abaecd02b6b1f6f646c807d56be8fb62"
CIFAKE_URL = f"https://github.com/jordan-bird/CIFAKE-Real-and-AI-Generated-Synthetic-Images/archive/{CIFAKE_COMMIT}.zip"
ATTEMPTS = 5  # transfers begun within one call
BACKOFF_SECONDS = 1.0  # before the second attempt; doubles with each
TIMEOUT_SECONDS = 30.0  # without a single byte
CHUNK_BYTES = 1 << 18
PASSING_STATUS = {408, 429, 500, 502, 503, 504}  # worth another attempt
ZIP_MAGIC = b"PK"

Show = Callable[[int, int | None], None]  # bytes that have come, bytes in all if known


class _Broken(Exception):
    """A transfer that ended early; what came is kept and the next attempt goes on from there."""


class _Unreachable(_Broken):
    """No connection at all."""


def download_cifake(root: Path = Path("data/cifake"), source: str = CIFAKE_URL) -> Path:
    """Fetches the archive into root / "CIFAKE.zip", verified; returns that path (anything --data.root takes).

    An archive that is already there is verified and left alone. The transfer goes to CIFAKE.zip.part, which stays when
    it breaks off, so that the same call resumes it; what fails verification is removed.

    Args:
        root: folder, made if needed.
        source: an http, https or file address, or the path of a zip, which is copied.

    Raises:
        UserError: nothing there to fetch, a broken transfer, a full disk, or images that are not CIFAKE's.
    """
    root, console = Path(root), Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    target, part = root / "CIFAKE.zip", root / "CIFAKE.zip.part"
    with _disk_errors(root):
        if root.exists() and not root.is_dir():
            raise UserError(f"{root}: expected a folder to put CIFAKE.zip into, found a file")
        if target.exists():
            _verify_present(target)
            console.print(f"{target}: already there, verified")
            return target
        _transfer(source, part)
        try:
            verify_archive(part)
        except UserError as error:
            _drop(part)
            raise UserError(f"{source} did not give CIFAKE, nothing was kept: {error}") from error
        part.replace(target)
        _drop(part)  # what is left: the note beside it
    console.print(f"{target}: fetched and verified")
    return target


def _verify_present(target: Path) -> None:
    try:
        verify_archive(target)
    except UserError as error:
        raise UserError(f"{error}; delete {target} and run the same command again to fetch it anew") from error


@contextmanager
def _disk_errors(root: Path) -> Iterator[None]:
    """Turns what the file system refuses into a UserError. Network errors never get here: they are _Broken by then."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{root}: cannot keep CIFAKE there (130 MB): {error.strerror or error}; "
            "mend that, or give another --root, and run the same command again"
        ) from error


def _transfer(source: str, part: Path) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("CIFAKE.zip", total=None)

        def show(done: int, total: int | None) -> None:
            progress.update(task, completed=done, total=total)

        if source.lower().startswith(("http://", "https://")):
            _fetch(source, part, show)
        else:
            _copy(_local_path(source), part, show)


def _local_path(source: str) -> Path:
    path = Path(source).expanduser()
    if "://" in source or source.lower().startswith("file:"):
        try:
            address = urlsplit(source)
        except ValueError as error:
            raise UserError(f"--source {source}: not an address: {error}") from error
        if address.scheme != "file" or address.netloc not in ("", "localhost"):
            raise UserError(f"--source {source}: expected an http(s):// or file:/// address or the path of a zip")
        path = Path(url2pathname(address.path))
    try:
        path.open("rb").close()
    except OSError as error:
        expected = "an http(s) or file address or the path of a zip that can be read"
        raise UserError(f"--source {source}: expected {expected}: {error.strerror}") from error
    return path


def _copy(path: Path, part: Path, show: Show) -> None:
    """A local copy is not resumed: it is quick, and a half one is removed."""
    if part.exists() and path.samefile(part):
        raise UserError(f"--source {path}: is this command's own unfinished transfer; expected another file")
    _drop(part)
    part.parent.mkdir(parents=True, exist_ok=True)
    done, total = 0, path.stat().st_size
    try:
        with path.open("rb") as original, part.open("wb") as file:
            while chunk := original.read(CHUNK_BYTES):
                file.write(chunk)
                show(done := done + len(chunk), total)
    except BaseException:
        _drop(part)
        raise


def _fetch(url: str, part: Path, show: Show) -> None:
    """Brings the whole of `url` into `part`, over several connections if one breaks."""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(BACKOFF_SECONDS * 2 ** (attempt - 1))
        try:
            return _receive(url, part, show)
        except _Broken as error:
            reason = str(error)
            if attempt == 0 and isinstance(error, _Unreachable):
                break  # a wrong name or no network: waiting seldom helps
    kept = part.stat().st_size if part.exists() else 0
    resumes = f"; {kept:,} bytes are kept and the same command resumes there" if kept else ""
    raise UserError(f"{url}: transfer failed, {attempt + 1} of {ATTEMPTS} attempts: {reason}{resumes}")


def _receive(url: str, part: Path, show: Show) -> None:
    """One connection: appends to `part` what is still missing, or writes it from the start if the server wants that."""
    etag = _recall(part, url)
    offset = part.stat().st_size if part.exists() else 0
    with _open(url, offset, etag) as response:
        begin, total = _extent(response)
        if response.status == 416 and (offset == total or (total is None and zipfile.is_zipfile(part))):
            return  # asked for what comes after the last byte: all of it is here
        served = response.headers.get("ETag")
        if response.status == 416 or begin not in (0, offset) or (begin and served and etag and served != etag):
            _drop(part)
            raise _Broken("the file on the server has changed")
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab" if begin else "wb") as file:
            if not begin:
                _remember(part, url, served)
            done = begin
            show(done, total)
            for chunk in _chunks(response):
                file.write(chunk)
                show(done := done + len(chunk), total)
    if total is not None and done != total:
        raise _Broken(f"the connection closed after {done:,} of {total:,} bytes")
    if total is None and _looks_cut_off(part):
        raise _Broken(f"the connection closed after {done:,} bytes, before the end of the zip")


def _open(url: str, offset: int, etag: str | None) -> Any:
    """The response, status 200, 206 or 416; asks for the bytes from `offset` on."""
    headers = {"User-Agent": "lightning_cifake"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if etag and not etag.startswith("W/"):  # RFC 9110, 13.1.5: If-Range takes strong validators only
            headers["If-Range"] = etag
    try:
        response = urlopen(Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    except HTTPError as error:
        if error.status == 416:
            return error
        error.close()
        if error.status in PASSING_STATUS:
            raise _Broken(f"the server answered {error.status} {error.reason}") from error
        raise UserError(f"{url}: expected the archive, the server answered {error.status} {error.reason}") from error
    except URLError as error:
        raise _Unreachable(f"no connection: {error.reason}") from error
    except (InvalidURL, ValueError) as error:
        raise UserError(f"--source {url}: not an address: {error}") from error
    except (OSError, HTTPException) as error:
        raise _Broken(f"the connection broke off: {error}") from error
    if response.status not in (200, 206):
        response.close()
        raise UserError(f"{url}: expected the archive, the server answered {response.status} {response.reason}")
    return response


def _extent(response: Any) -> tuple[int, int | None]:
    """Where the body begins within the file, and the file's size if the server says."""
    if response.status == 200:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    if not match:
        return -1, None  # an answer to no question of ours
    begin, total = match.groups()
    return int(begin or 0), None if total == "*" else int(total)


def _chunks(response: Any) -> Iterator[bytes]:
    try:
        while chunk := response.read1(CHUNK_BYTES):
            yield chunk
    except (OSError, HTTPException) as error:
        raise _Broken(f"the connection broke off: {error!r}") from error


def _looks_cut_off(part: Path) -> bool:
    """Begins like a zip but has no end. Anything that does not even begin like one is for verification to refuse."""
    with part.open("rb") as file:
        begins = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    return begins and not zipfile.is_zipfile(part)


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _remember(part: Path, url: str, etag: str | None) -> None:
    """Notes which file `part` is the beginning of."""
    _note(part).write_text(json.dumps({"source": url, "etag": etag}))


def _recall(part: Path, url: str) -> str | None:
    """The ETag noted for `part`; removes a part that is not known to be the beginning of `url`."""
    try:
        note = json.loads(_note(part).read_text())
        if note["source"] == url:
            return note["etag"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass  # no note, or half of one
    _drop(part)
    return None


def _drop(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)
