"""Fetches the author's CIFAKE archive, resuming broken transfers, and keeps it only if every image is as published.

By hand: pooch resumes nothing, and huggingface_hub serves its own hub; what is resumed here is known to be the same
file. The one file that is not written by files.py: its beginning has to stay when a transfer breaks.
"""

import re
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPException, InvalidURL
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, url2pathname

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from lightning_cifake.data.http_opener import opener
from lightning_cifake.data.manifest import verify_archive
from lightning_cifake.errors import UserError
from lightning_cifake.files import exclusive, expand_user, made_folder, read_json, sealed_json, write_whole
from lightning_cifake.machine import MACHINE_ERRORS
from lightning_cifake.text import one_line, printable, reason_of

CIFAKE_COMMIT = "e112a942abaecd02b6b1f6f646c807d56be8fb62"
CIFAKE_URL = f"https://github.com/jordan-bird/CIFAKE-Real-and-AI-Generated-Synthetic-Images/archive/{CIFAKE_COMMIT}.zip"
ATTEMPTS = 5  # transfers begun within one call
BACKOFF_SECONDS = 1.0  # before the second attempt; doubles with each
TIMEOUT_SECONDS = 30.0  # without a single byte
PACE_SECONDS = 30.0  # over which the bytes that arrive are held against:
PACE_BYTES = 1024  # a second; CIFAKE would take a day and a half
CHUNK_BYTES = 1 << 18
MAX_BYTES = 256 * 2**20  # twice the author's archive
PASSING_STATUS = {408, 429, 500, 502, 503, 504}  # worth another attempt
ZIP_MAGIC = b"PK"

ReportProgress = Callable[[int, int | None], None]  # bytes received, bytes in all if known


class _Broken(Exception):
    """A transfer that ended early; what was received is kept and the next attempt resumes there."""


class _TooMuch(_Broken):
    """More bytes than the server announced: the next attempt starts over."""


class _Unreachable(_Broken):
    """No connection at all."""


def download_cifake(root: Path = Path("data/cifake"), source: str = CIFAKE_URL) -> Path:
    """Fetches the archive into root / "CIFAKE.zip", verified; returns that path (anything --data.root takes).

    An archive that is already there is verified and left alone. The transfer goes to CIFAKE.zip.part, which stays when
    it breaks off, so that the same call resumes it; what fails verification is removed. Of two calls for the same root
    the second waits for the first. A server that sends too much, or next to nothing, is given up.

    Args:
        root: folder, made if needed.
        source: an http, https or file address, or the path of a zip, which is copied.

    Raises:
        UserError: nothing there to fetch, a broken transfer, a full disk, or images that are not CIFAKE's.
    """
    root, console = expand_user(root), Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    target, part = root / "CIFAKE.zip", root / "CIFAKE.zip.part"
    shown = printable(target)

    def say_waiting() -> None:
        console.print(f"{shown}: another process fetches it, waiting for that")

    with _disk_errors(root), ExitStack() as stack:
        if root.exists() and not root.is_dir():
            raise UserError(f"{printable(root)}: expected a folder to put CIFAKE.zip into, found a file")
        if not target.exists():
            stack.enter_context(made_folder(root))
            stack.enter_context(exclusive(root / ".CIFAKE.zip.lock", say_waiting))
        if target.exists():  # for a while, or just now by another process
            _verify_present(target)
            console.print(f"{shown}: already there, verified")
            return target
        _transfer(source, part)
        try:
            verify_archive(part)
        except UserError as error:
            _remove_part(part)
            raise UserError(f"{printable(source)} did not give CIFAKE, nothing was kept: {error}") from error
        part.replace(target)
        _remove_part(part)  # what is left: the note beside it
    console.print(f"{shown}: fetched and verified")
    return target


def _verify_present(target: Path) -> None:
    try:
        verify_archive(target)
    except UserError as error:
        raise UserError(f"{error}; delete {printable(target)} and run the same command again") from error


@contextmanager
def _disk_errors(root: Path) -> Iterator[None]:
    """Turns what the file system refuses into a UserError. Network errors never get here: they are _Broken by then."""
    try:
        yield
    except OSError as error:
        if error.errno in MACHINE_ERRORS:
            raise UserError(f"cannot fetch CIFAKE now: {reason_of(error)}; run the same command again") from error
        raise UserError(
            f"{printable(root)}: cannot keep CIFAKE there (130 MB): {reason_of(error)}; "
            "make that possible, or give another --root, and run the same command again"
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
    shown = printable(source)
    path = expand_user(source)
    if "://" in source or source.lower().startswith("file:"):
        try:
            address = urlsplit(source)
        except ValueError as error:
            raise UserError(f"--source {shown}: not an address: {reason_of(error)}") from error
        if address.scheme != "file" or address.netloc not in ("", "localhost"):
            raise UserError(f"--source {shown}: expected an http(s):// or file:/// address or the path of a zip")
        path = Path(url2pathname(address.path))
    expected = "an http(s) or file address or the path of a zip that can be read"
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # a pipe would never end
            raise UserError(f"--source {shown}: expected {expected}, got something that is no file")
        path.open("rb").close()
    except (OSError, ValueError) as error:
        raise UserError(f"--source {shown}: expected {expected}: {reason_of(error)}") from error
    return path


def _copy(path: Path, part: Path, show: ReportProgress) -> None:
    """A local copy is not resumed: it is quick, and a half one is removed."""
    shown = printable(path)
    if part.exists() and path.samefile(part):
        raise UserError(f"--source {shown}: is this command's own unfinished transfer; expected another file")
    _remove_part(part)
    done, total = 0, path.stat().st_size
    _refuse_size(f"--source {shown}", total)
    try:
        with path.open("rb") as original, part.open("wb") as file:
            for chunk in _pieces(original, shown):
                file.write(chunk)
                show(done := done + len(chunk), total)
                _refuse_size(f"--source {shown}", done)  # it grows
    except BaseException:
        _remove_part(part)
        raise


def _pieces(original: Any, shown: str) -> Iterator[bytes]:
    try:
        while chunk := original.read(CHUNK_BYTES):
            yield chunk
    except OSError as error:
        raise UserError(f"--source {shown}: cannot be read to its end: {reason_of(error)}") from error


def _refuse_size(source: str, size: int) -> None:
    if size > MAX_BYTES:
        raise UserError(
            f"{source}: expected CIFAKE's archive of about 130 MB, got one of {size:,} bytes or more; nothing was kept"
        )


def _fetch(url: str, part: Path, show: ReportProgress) -> None:
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
    raise UserError(f"{printable(url)}: transfer failed, {attempt + 1} of {ATTEMPTS} attempts: {reason}{resumes}")


def _receive(url: str, part: Path, show: ReportProgress) -> None:
    """One connection: appends to `part` what is still missing, or writes it from the start if the server wants that."""
    etag = _noted_etag(part, url)
    offset = part.stat().st_size if part.exists() else 0
    with _open(url, offset, etag) as response:
        begin, total = _extent(response)
        if response.status == 416 and (offset == total or (total is None and zipfile.is_zipfile(part))):
            return  # asked for what comes after the last byte: all of it is here
        served = response.headers.get("ETag")
        if response.status == 416 or begin not in (0, offset) or (begin and served and etag and served != etag):
            _remove_part(part)
            raise _Broken("the file on the server has changed")
        with part.open("ab" if begin else "wb") as file:
            if not begin:
                _note_source(part, url, served)
            done = begin
            show(done, total)
            try:
                _refuse_size(printable(url), total or 0)
                for chunk in _chunks(response):
                    file.write(chunk)
                    show(done := done + len(chunk), total)
                    _refuse_size(printable(url), done)
                    if total is not None and done > total:
                        raise _TooMuch(f"the server sent more than the {total:,} bytes that it announced")
            except (UserError, _TooMuch):
                _remove_part(part)  # resuming there could never give the file
                raise
    if total is not None and done != total:
        raise _Broken(f"the connection closed after {done:,} of {total:,} bytes")
    if total is None and (not done or _looks_cut_off(part)):
        raise _Broken(f"the connection closed after {done:,} bytes, before the end of the zip")


def _open(url: str, offset: int, etag: str | None) -> Any:
    """The response, status 200, 206 or 416; asks for the bytes from `offset` on."""
    headers = {"User-Agent": "lightning_cifake"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if etag and not etag.startswith("W/"):  # RFC 9110, 13.1.5: If-Range takes strong validators only
            headers["If-Range"] = etag
    shown = printable(url)
    try:
        response = opener().open(Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    except HTTPError as error:
        if error.status == 416:
            return error
        error.close()
        answered = f"the server answered {error.status} {printable(one_line(str(error.reason)))}"
        if error.status in PASSING_STATUS:
            raise _Broken(answered) from error
        raise UserError(f"{shown}: expected the archive, {answered}") from error
    except URLError as error:
        reason = error.reason
        said = reason_of(reason) if isinstance(reason, Exception) else printable(one_line(str(reason)))
        raise _Unreachable(f"no connection: {said}") from error
    except (InvalidURL, ValueError) as error:
        raise UserError(f"--source {shown}: not an address: {reason_of(error)}") from error
    except (OSError, HTTPException) as error:
        raise _Broken(f"the connection broke off: {reason_of(error)}") from error
    if response.status not in (200, 206):
        response.close()
        answered = f"{response.status} {printable(response.reason)}"
        raise UserError(f"{shown}: expected the archive, the server answered {answered}")
    return response


def _extent(response: Any) -> tuple[int, int | None]:
    """Where the body begins within the file, and the file's size if the server says."""
    if response.status == 200:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if re.fullmatch("[0-9]{1,18}", length) else None
    match = re.fullmatch(
        r"bytes (?:([0-9]{1,18})-[0-9]{1,18}|\*)/([0-9]{1,18}|\*)", response.headers.get("Content-Range", "").strip()
    )
    if not match:
        return -1, None  # an answer to no question of ours
    begin, total = match.groups()
    return int(begin or 0), None if total == "*" else int(total)


def _chunks(response: Any) -> Iterator[bytes]:
    window_start, received = time.monotonic(), 0
    try:
        while chunk := response.read1(CHUNK_BYTES):
            yield chunk
            received += len(chunk)
            passed = time.monotonic() - window_start
            if passed >= PACE_SECONDS:
                if received < PACE_BYTES * passed:
                    raise _Broken(f"{received:,} bytes in {passed:.0f} s are too few to continue")
                window_start, received = time.monotonic(), 0
    except (OSError, HTTPException) as error:
        raise _Broken(f"the connection broke off: {reason_of(error)}") from error


def _looks_cut_off(part: Path) -> bool:
    """Begins like a zip but has no end. Anything that does not even begin like one is for verification to refuse."""
    with part.open("rb") as file:
        begins = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    return begins and not zipfile.is_zipfile(part)


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _note_source(part: Path, url: str, etag: str | None) -> None:
    """Notes which file `part` is the beginning of."""
    write_whole(_note(part), sealed_json({"source": url, "etag": etag}))


def _noted_etag(part: Path, url: str) -> str | None:
    """The ETag noted for `part`; removes a part that is not known to be the beginning of `url`."""
    with suppress(UserError):  # no note, or a damaged one
        note, _ = read_json(_note(part))
        etag = note.get("etag")
        if note.get("source") == url and isinstance(etag, str | None):
            return etag
    _remove_part(part)
    return None


def _remove_part(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)
