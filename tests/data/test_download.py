"""The download against a local HTTP server that cuts off, forgets and alters; on a small archive, once on the real."""

import hashlib
import os
import re
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_cifake.data import download, manifest
from lightning_cifake.data.download import download_cifake
from lightning_cifake.data.manifest import CIFAKE_DIGEST, verify_archive
from lightning_cifake.errors import UserError

NAMES = [f"{split}/{label}/{n:04d}.jpg" for split in ("test", "train") for label in ("FAKE", "REAL") for n in range(12)]
VICTIM = "train/REAL/0003.jpg"


def images() -> dict[str, bytes]:
    """48 files of incompressible bytes, sizes as CIFAKE's."""
    random = np.random.default_rng(0)
    return {name: random.bytes(700 + 10 * i) for i, name in enumerate(NAMES)}


def write_zip(path: Path, files: dict[str, bytes], prefix: str = "CIFAKE-abc/DATASET/") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("CIFAKE-abc/README.md", "not an image")
        for name, content in files.items():
            archive.writestr(prefix + name, content)
    return path


def damage(path: Path, content: bytes) -> None:
    """Flips one bit in the middle of a stored file, so that its CRC no longer agrees."""
    raw = bytearray(path.read_bytes())
    raw[raw.index(content) + len(content) // 2] ^= 1
    path.write_bytes(raw)


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small archive, which `download_cifake` takes for the expected one."""
    path = write_zip(tmp_path / "made.zip", images())
    expected = manifest.describe_archive(path)
    monkeypatch.setattr(download, "verify_archive", partial(verify_archive, expected=expected))
    return path


@dataclass
class Served:
    """What the server hands out, how it misbehaves, and what it was asked."""

    body: bytes = b""
    url: str = ""
    etag: str | None = '"one"'
    cuts: list[int] = field(default_factory=list)  # body bytes after which the n-th answers break off
    statuses: list[int] = field(default_factory=list)  # the n-th answers are bare errors
    ranges: bool = True
    says_length: bool = True
    chunked: bool = False
    ranges_asked: list[str | None] = field(default_factory=list)
    if_ranges_asked: list[str | None] = field(default_factory=list)
    sent: int = 0


def handler_for(served: Served) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            served.ranges_asked.append(asked)
            served.if_ranges_asked.append(self.headers.get("If-Range"))
            if served.statuses:
                return self.send_error(served.statuses.pop(0))
            size, begin = len(served.body), 0
            if asked and served.ranges and self.headers.get("If-Range", served.etag) == served.etag:
                begin = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])  # type: ignore[index]
            if begin >= size > 0:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{size}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(206 if begin else 200)
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
            if served.etag:
                self.send_header("ETag", served.etag)
            self.send_header("Connection", "close")
            if served.chunked:
                self.send_header("Transfer-Encoding", "chunked")
            elif served.says_length:
                self.send_header("Content-Length", str(size - begin))
            self.end_headers()
            stop = served.cuts.pop(0) if served.cuts else None
            rest = served.body[begin:][:stop]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(rest), rest) if served.chunked else rest)
            if served.chunked and stop is None:
                self.wfile.write(b"0\r\n\r\n")
            served.sent += len(rest)

    return Handler


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.0)
    served = Served()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler_for(served)) as http:
        served.url = f"http://127.0.0.1:{http.server_address[1]}/cifake.zip"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield served
        http.shutdown()
        thread.join(10)


def left_in(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir()) if root.exists() else []


def fetched_whole(root: Path, served: Served) -> bool:
    return left_in(root) == ["CIFAKE.zip"] and (root / "CIFAKE.zip").read_bytes() == served.body


# --- transfer ---------------------------------------------------------------------------------------------------------


def test_a_connection_cut_mid_way_is_resumed_with_a_range_within_one_call(
    archive: Path, server: Served, tmp_path: Path
) -> None:
    server.body = archive.read_bytes()
    server.cuts = [20_000]
    path = download_cifake(tmp_path / "root", server.url)
    assert path == tmp_path / "root" / "CIFAKE.zip"
    assert fetched_whole(path.parent, server)
    assert server.ranges_asked == [None, "bytes=20000-"]
    assert server.sent == len(server.body)


def test_a_second_call_resumes_what_the_first_left(archive: Path, server: Served, tmp_path: Path) -> None:
    server.body = archive.read_bytes()
    server.cuts = [4_000] * download.ATTEMPTS
    with pytest.raises(UserError, match=rf"20,000 of {len(server.body):,} bytes.*20,000 bytes are kept and the same"):
        download_cifake(tmp_path / "root", server.url)
    assert left_in(tmp_path / "root") == ["CIFAKE.zip.part", "CIFAKE.zip.part.json"]
    download_cifake(tmp_path / "root", server.url)
    assert server.ranges_asked[-1] == "bytes=20000-"
    assert len(server.ranges_asked) == download.ATTEMPTS + 1
    assert fetched_whole(tmp_path / "root", server)


def test_ctrl_c_leaves_the_part_to_resume(
    archive: Path, server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(response: object) -> Iterator[bytes]:
        yield server.body[:10_000]
        raise KeyboardInterrupt

    server.body = archive.read_bytes()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(download, "_chunks", interrupted)
        download_cifake(tmp_path / "root", server.url)
    download_cifake(tmp_path / "root", server.url)
    assert server.ranges_asked == [None, "bytes=10000-"]
    assert fetched_whole(tmp_path / "root", server)


def test_a_server_that_ignores_ranges_is_read_from_the_start(archive: Path, server: Served, tmp_path: Path) -> None:
    server.body = archive.read_bytes()
    server.ranges, server.cuts = False, [20_000]
    download_cifake(tmp_path / "root", server.url)
    assert server.ranges_asked == [None, "bytes=20000-"]
    assert fetched_whole(tmp_path / "root", server)


@pytest.mark.parametrize("etag", ['"{}"', 'W/"{}"'], ids=["strong", "weak"])
def test_a_file_that_changed_on_the_server_is_not_mixed_with_the_old_part(
    archive: Path, server: Served, tmp_path: Path, etag: str
) -> None:
    server.body = bytes(len(archive.read_bytes()))  # another file, of which half comes
    server.etag, server.cuts = etag.format("old"), [20_000] + [0] * (download.ATTEMPTS - 1)
    with pytest.raises(UserError, match="20,000 bytes are kept"):
        download_cifake(tmp_path / "root", server.url)
    server.body, server.etag = archive.read_bytes(), etag.format("new")
    server.if_ranges_asked.clear()
    download_cifake(tmp_path / "root", server.url)
    assert server.if_ranges_asked[0] == (None if etag.startswith("W/") else '"old"')  # weak ones are not for If-Range
    assert fetched_whole(tmp_path / "root", server)


def test_a_part_of_another_address_is_not_resumed(archive: Path, server: Served, tmp_path: Path) -> None:
    server.body = archive.read_bytes()
    server.cuts = [5_000] * download.ATTEMPTS
    with pytest.raises(UserError):
        download_cifake(tmp_path / "root", server.url + "?old")
    download_cifake(tmp_path / "root", server.url)
    assert server.ranges_asked[-1] is None
    assert fetched_whole(tmp_path / "root", server)


def test_a_complete_part_is_not_fetched_again(archive: Path, server: Served, tmp_path: Path) -> None:
    server.body = archive.read_bytes()
    part = tmp_path / "CIFAKE.zip.part"
    part.write_bytes(server.body)
    download._note_source(part, server.url, server.etag)
    root = tmp_path / "root"
    root.mkdir()
    for path in (part, download._note(part)):
        path.rename(root / path.name)
    download_cifake(root, server.url)
    assert server.sent == 0
    assert fetched_whole(root, server)


def test_a_part_longer_than_the_file_is_dropped(archive: Path, server: Served, tmp_path: Path) -> None:
    server.body = archive.read_bytes()
    root = tmp_path / "root"
    root.mkdir()
    (root / "CIFAKE.zip.part").write_bytes(server.body + b"more")
    download._note_source(root / "CIFAKE.zip.part", server.url, server.etag)
    download_cifake(root, server.url)
    assert server.ranges_asked[1:] == [None]
    assert fetched_whole(root, server)


@pytest.mark.parametrize("chunked", [True, False])
def test_a_cut_without_a_content_length_is_noticed_and_resumed(
    archive: Path, server: Served, tmp_path: Path, chunked: bool
) -> None:
    server.body = archive.read_bytes()
    server.says_length, server.chunked, server.etag, server.cuts = False, chunked, None, [20_000]
    download_cifake(tmp_path / "root", server.url)
    assert server.ranges_asked == [None, "bytes=20000-"]
    assert fetched_whole(tmp_path / "root", server)


def test_a_passing_server_error_is_tried_again(archive: Path, server: Served, tmp_path: Path) -> None:
    server.body = archive.read_bytes()
    server.statuses = [503, 502]
    download_cifake(tmp_path / "root", server.url)
    assert len(server.ranges_asked) == 3


def test_a_second_call_makes_no_request(
    archive: Path, server: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.body = archive.read_bytes()
    first = download_cifake(tmp_path / "root", server.url)
    stamp = first.stat().st_mtime_ns
    capsys.readouterr()
    assert download_cifake(tmp_path / "root", server.url) == first
    assert len(server.ranges_asked) == 1
    assert first.stat().st_mtime_ns == stamp
    captured = capsys.readouterr()
    assert "already there, verified" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("form", ["path", "file address"])
def test_a_local_zip_is_copied_not_moved(archive: Path, tmp_path: Path, form: str) -> None:
    spaced = archive.rename(tmp_path / "made (1).zip")
    path = download_cifake(tmp_path / "root", str(spaced) if form == "path" else spaced.as_uri())
    assert path.read_bytes() == spaced.read_bytes()
    assert left_in(tmp_path / "root") == ["CIFAKE.zip"]


# --- mistakes ---------------------------------------------------------------------------------------------------------


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_404_is_one_line_after_one_request(server: Served, tmp_path: Path) -> None:
    server.statuses = [404]
    with pytest.raises(UserError, match="answered 404 Not Found") as error:
        download_cifake(tmp_path / "root", server.url)
    assert server.url in one_line(error)
    assert len(server.ranges_asked) == 1
    assert left_in(tmp_path / "root") == []


def test_a_server_that_stays_down_is_left_after_some_attempts(server: Served, tmp_path: Path) -> None:
    server.statuses = [503] * 20
    with pytest.raises(UserError, match="503 Service Unavailable"):
        download_cifake(tmp_path / "root", server.url)
    assert len(server.ranges_asked) == download.ATTEMPTS


def test_a_host_that_does_not_answer_is_one_line_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download.time, "sleep", lambda _: pytest.fail("waited for a host that is not there"))
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as closed:
        port = closed.server_address[1]
    with pytest.raises(UserError, match=r"no connection: .*refused"):
        download_cifake(tmp_path / "root", f"http://127.0.0.1:{port}/x.zip")


@pytest.mark.parametrize("says_length", [True, False])
def test_a_page_instead_of_a_zip_is_refused_and_removed(server: Served, tmp_path: Path, says_length: bool) -> None:
    server.body, server.says_length = b"<html>please log in</html>", says_length
    with pytest.raises(UserError, match=r"nothing was kept.*expected a zip archive") as error:
        download_cifake(tmp_path / "root", server.url)
    one_line(error)
    assert len(server.ranges_asked) == 1
    assert left_in(tmp_path / "root") == []


@pytest.mark.parametrize(
    "source",
    [
        *("nowhere.zip", "", ".", "file:///nowhere.zip", "file://far.example/x.zip", "file://[x"),
        *("ftp://x.example/y.zip", "http://a b/", "http://[x", "http://x.example:port/"),
    ],
)
def test_a_source_that_is_no_file_and_no_address_is_named(tmp_path: Path, source: str) -> None:
    with pytest.raises(UserError) as error:
        download_cifake(tmp_path / "root", source)
    assert f"--source {source}: " in one_line(error)
    assert not (tmp_path / "root").exists()


def test_a_file_in_the_place_of_the_root_is_named(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a folder"):
        download_cifake(archive, str(archive))
    with pytest.raises(UserError, match="cannot keep CIFAKE there"):
        download_cifake(archive / "below", str(archive))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_line(archive: Path, server: Served, tmp_path: Path) -> None:
    server.body = archive.read_bytes()
    part = tmp_path / "CIFAKE.zip.part"
    part.symlink_to("/dev/full")
    download._note_source(part, server.url, server.etag)
    with pytest.raises(UserError, match="No space left on device") as error:
        download_cifake(tmp_path, server.url)
    assert str(tmp_path) in one_line(error)
    assert not (tmp_path / "CIFAKE.zip").exists()


def test_the_unfinished_transfer_is_no_source(archive: Path, tmp_path: Path) -> None:
    part = archive.rename(tmp_path / "CIFAKE.zip.part")
    size = part.stat().st_size
    with pytest.raises(UserError, match="unfinished transfer"):
        download_cifake(tmp_path, str(part))
    assert part.stat().st_size == size


def test_what_fails_verification_is_removed_and_named(archive: Path, server: Served, tmp_path: Path) -> None:
    server.body = write_zip(tmp_path / "other.zip", images() | {VICTIM: b"another"}).read_bytes()
    with pytest.raises(UserError, match=rf"nothing was kept.*1 altered \({VICTIM}\)") as error:
        download_cifake(tmp_path / "root", server.url)
    one_line(error)
    assert left_in(tmp_path / "root") == []


def test_a_spoilt_archive_that_was_there_is_named_and_kept(archive: Path, server: Served, tmp_path: Path) -> None:
    spoilt = archive.rename(tmp_path / "CIFAKE.zip")
    damage(spoilt, images()[VICTIM])
    before = spoilt.read_bytes()
    with pytest.raises(UserError, match=rf"damaged in the zip \({VICTIM}\).*delete .*CIFAKE.zip and run"):
        download_cifake(tmp_path, server.url)
    assert spoilt.read_bytes() == before
    assert server.ranges_asked == []


# --- verification -----------------------------------------------------------------------------------------------------


@pytest.fixture
def expected(tmp_path: Path) -> manifest.Expected:
    return manifest.describe_archive(write_zip(tmp_path / "expected.zip", images()))


@pytest.mark.parametrize("prefix", ["", "x/", "CIFAKE-other/DATASET/"])
def test_neither_the_folder_nor_the_packing_matters(tmp_path: Path, expected: manifest.Expected, prefix: str) -> None:
    path = write_zip(tmp_path / "a.zip", dict(reversed(images().items())), prefix)
    verify_archive(path, expected)
    assert manifest.describe_archive(path).digest == expected.digest


def test_missing_and_unexpected_files_are_named_and_counted(tmp_path: Path, expected: manifest.Expected) -> None:
    files = {name: content for name, content in images().items() if not name.startswith("test/FAKE")}
    files["train/REAL/9999.jpg"] = b"x"
    with pytest.raises(UserError) as error:
        verify_archive(write_zip(tmp_path / "a.zip", files), expected)
    message = one_line(error)
    assert "12 missing (test/FAKE/0000.jpg, " in message
    assert "test/FAKE/0009.jpg, ...)" in message
    assert "test/FAKE/0010.jpg" not in message
    assert "1 unexpected or twice (train/REAL/9999.jpg)" in message
    assert "test/FAKE 0 of 12, test/REAL 12 of 12" in message


def test_an_image_outside_the_layout_or_there_twice_is_unexpected(tmp_path: Path, expected: manifest.Expected) -> None:
    path = write_zip(tmp_path / "a.zip", images())
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("CIFAKE-abc/stray.JPG", b"x")
        archive.writestr(f"CIFAKE-abc/DATASET/{VICTIM}", b"x")
    with pytest.raises(
        UserError, match=rf"2 unexpected or twice \(CIFAKE-abc/stray.JPG, CIFAKE-abc/DATASET/{VICTIM}\)"
    ):
        verify_archive(path, expected)


def test_damaged_files_and_altered_files_are_told_apart(tmp_path: Path, expected: manifest.Expected) -> None:
    path = write_zip(tmp_path / "a.zip", images() | {NAMES[0]: b"another"})
    damage(path, images()[VICTIM])
    with pytest.raises(UserError, match=rf"1 damaged in the zip \({VICTIM}\); 1 altered \({NAMES[0]}\)"):
        verify_archive(path, expected)


def test_an_altered_file_with_the_same_head_is_caught_by_the_digest(
    tmp_path: Path, expected: manifest.Expected
) -> None:
    wanted = hashlib.sha256(images()[VICTIM]).digest()[: manifest.HEAD_BYTES]
    tries = (b"%d" % n for n in range(5_000_000))
    alike = next(content for content in tries if hashlib.sha256(content).digest()[: manifest.HEAD_BYTES] == wanted)
    with pytest.raises(UserError, match="an altered file that cannot be named"):
        verify_archive(write_zip(tmp_path / "a.zip", images() | {VICTIM: alike}), expected)


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip" * 1000])
def test_what_is_no_zip_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    with pytest.raises(UserError, match="expected a zip archive"):
        verify_archive(path)
    with pytest.raises(UserError, match="No such file"):
        verify_archive(tmp_path / "none.zip")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_spoilt_byte_or_a_lost_end_is_a_user_error_unless_the_images_are_whole(
    tmp_path: Path, expected: manifest.Expected, data: st.DataObject
) -> None:
    raw = bytearray((tmp_path / "expected.zip").read_bytes())
    directory = raw.index(b"PK\x01\x02")  # most of the structure is here and would be missed by a uniform draw
    where = data.draw(st.integers(0, len(raw) - 1) | st.integers(directory, len(raw) - 1))
    if data.draw(st.booleans()):
        raw[where] ^= data.draw(st.integers(1, 255))
    else:
        del raw[where:]
    path = tmp_path / "spoilt.zip"
    path.write_bytes(raw)
    try:
        verify_archive(path, expected)
    except UserError as error:
        assert str(path) in str(error)
    else:
        with zipfile.ZipFile(path) as archive:
            found = {name: archive.read(f"CIFAKE-abc/DATASET/{name}") for name in NAMES}
        assert found == images()


@pytest.mark.parametrize("content", [None, b"", b"PK\3\4 and no more", b"\x93NUMPY\1\0"])
def test_a_damaged_manifest_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "m.npz").write_bytes(content)
    monkeypatch.setattr(manifest, "MANIFEST", tmp_path / "m.npz")
    with pytest.raises(UserError, match=r"part of lightning_cifake, is damaged .*install it again") as error:
        manifest.cifake_expected.__wrapped__()
    one_line(error)


def test_the_expected_names_are_120_000_in_canonical_order() -> None:
    names = manifest.cifake_names()
    assert list(names) == sorted(set(names))
    counts = {folder: sum(name.startswith(folder + "/") for name in names) for folder in ("train/REAL", "train/FAKE")}
    assert counts == {"train/REAL": 50_000, "train/FAKE": 50_000}
    assert len(names) == 120_000
    assert {"test/FAKE/0 (10).jpg", "test/REAL/0000.jpg", "train/FAKE/5999 (2).jpg"} <= set(names)
    assert manifest.cifake_expected().heads.shape == (120_000, manifest.HEAD_BYTES)


# --- the real archive -------------------------------------------------------------------------------------------------


@pytest.fixture
def real_archive() -> Path:
    given = os.environ.get("CIFAKE_ROOT")
    if not given or not zipfile.is_zipfile(given):
        pytest.skip("CIFAKE_ROOT does not name CIFAKE's zip archive")
    return Path(given)


def test_the_real_archive_cut_off_mid_way_arrives_whole(real_archive: Path, server: Served, tmp_path: Path) -> None:
    server.body = real_archive.read_bytes()
    half = len(server.body) // 2
    server.cuts = [half]
    path = download_cifake(tmp_path / "root", server.url)
    assert server.ranges_asked == [None, f"bytes={half}-"]
    assert server.sent == len(server.body)
    assert fetched_whole(path.parent, server)


def test_the_manifest_is_what_the_real_archive_gives(real_archive: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(real_archive) as archive:
        content = {
            info.filename.partition("/DATASET/")[2]: hashlib.sha256(archive.read(info)).digest()
            for info in archive.infolist()
            if info.filename.endswith(".jpg")
        }
    digest = hashlib.sha256()
    for name in sorted(content):
        digest.update(name.encode() + b"\0" + content[name])
    assert digest.hexdigest() == CIFAKE_DIGEST
    expected = manifest.cifake_expected()
    assert expected.names == tuple(sorted(content))
    assert expected.heads.tobytes() == b"".join(content[name][: manifest.HEAD_BYTES] for name in expected.names)


def test_the_manifest_is_made_again_byte_for_byte(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(manifest, "cifake_names", lambda: tuple(NAMES))
    for name in ("one.npz", "two.npz"):
        manifest.main([str(archive), "--output", str(tmp_path / name)])
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    with np.load(tmp_path / "one.npz") as arrays:
        assert arrays["sha256_heads"].tobytes() == b"".join(
            hashlib.sha256(images()[name]).digest()[: manifest.HEAD_BYTES] for name in NAMES
        )
    assert capsys.readouterr().out.split()[0] == manifest.describe_archive(archive).digest
