"""The Dockerfile, as far as that can be seen without a daemon: what it copies, installs, runs, and as whom."""

import fnmatch
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from served import head, picture, said, talk

from lightning_cifake.commands import serve
from lightning_cifake.commands.parsing import parse

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LINES = re.sub(
    r"\\\n\s*", "", re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
).splitlines()
STEPS = [tuple(line.split(" ", 1)) for line in LINES if line.strip()]
LAST = [at for at, (name, _) in enumerate(STEPS) if name == "FROM"][-1]


def values(name: str, steps: list = STEPS) -> list[str]:
    return [value for each, value in steps if each == name]


def test_its_bases_are_slim_and_say_which_version_and_the_last_stage_installs_nothing() -> None:
    lowest = PROJECT["project"]["requires-python"].removeprefix(">=")
    for base in values("FROM"):
        version = re.match(r"python:(3\.\d+)-slim( AS \w+)?$", base)
        assert version and tuple(map(int, version[1].split("."))) >= tuple(map(int, lowest.split("."))), base
    assert {name for name, _ in STEPS[LAST:]} == {
        "FROM",
        "COPY",
        "ENV",
        "USER",
        "EXPOSE",
        "HEALTHCHECK",
        "STOPSIGNAL",
        "ENTRYPOINT",
    }
    assert not values("ADD")


def test_it_runs_as_nobody_who_can_do_anything() -> None:
    (user,) = values("USER", STEPS[LAST:])
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)  # a number: Kubernetes can see that it is not root


def test_what_it_installs_is_the_package_with_the_extra_of_serve_and_no_torch() -> None:
    (run,) = values("RUN")
    assert "'.[web]'" in run and "--no-cache-dir" in run
    asked = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["web"]]
    assert not [each for each in asked if re.match(r"torch|tensorflow|lightning|keras", each)]


def test_what_it_copies_is_all_that_the_package_is_made_of_and_nothing_that_is_ignored() -> None:
    copied = {name for line in values("COPY", STEPS[:LAST]) for name in line.split()[:-1]}
    mapped = set(PROJECT["tool"]["setuptools"]["package-dir"].values())
    assert copied == {"LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "lightning_cifake", *mapped}
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"  # all is left out but what follows
    kept = [line.removeprefix("!") for line in lines if line.startswith("!")]
    for name in copied - {"checkpoints"}:
        assert name in kept and (ROOT / name).exists(), name
    shipped = PROJECT["tool"]["setuptools"]["package-data"]["lightning_cifake.released"]
    for name in shipped:
        assert any(fnmatch.fnmatch(f"checkpoints/{name}", pattern) for pattern in kept), name


def test_what_it_runs_is_a_command_line_of_serve_and_its_health_is_asked_at_its_port() -> None:
    (line,) = values("ENTRYPOINT")
    program, command, *arguments = json.loads(line)
    assert Path(program).name in PROJECT["project"]["scripts"] and command == "serve"
    options = parse("serve", serve.add_arguments, arguments)
    assert options.host == "0.0.0.0" and values("EXPOSE") == [str(options.port)]
    (health,) = values("HEALTHCHECK")
    asked = json.loads(health.partition("CMD ")[2])
    assert f"http://127.0.0.1:{options.port}/healthz" in asked[-1]
    compile(asked[-1], "HEALTHCHECK", "exec")
    folder = str(Path(program).parents[1])
    assert values("COPY", STEPS[LAST:]) == [f"--from=build {folder} {folder}"] and asked[0].startswith(folder)
    head_of_file = (ROOT / "Dockerfile").read_text().splitlines()
    (started,) = [shlex.split(each.removeprefix("#")) for each in head_of_file if "docker run" in each]
    assert {"--read-only", "--cap-drop"} <= set(started)


WATCHED = """
import os, sys
OTHERS = ("os.mkdir", "os.remove", "os.rename", "tempfile.mkstemp", "tempfile.mkdtemp", "socket.connect")
def watch(event, arguments):
    writes = event == "open" and isinstance(arguments[0], (str, bytes)) and os.fsdecode(arguments[0]) != os.devnull
    if event in OTHERS or writes and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        print("WRITES", event, arguments, file=sys.stderr, flush=True)
sys.dont_write_bytecode = True
from lightning_cifake.commands.main import main
from lightning_cifake.serve import server
made = server.listen
def listen(*given):
    opened = made(*given)
    sys.addaudithook(watch)
    return opened
server.listen = listen
raise SystemExit(main(["serve", "--port", "0", "--host", "127.0.0.1", "--log", "none", "--drain_seconds", "0"]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM")
def test_it_writes_no_file_and_connects_to_nothing_whatever_it_is_asked(tmp_path: Path) -> None:
    """So its file system may be read-only; a picture past the size that form parsers put on a disk is among them."""
    large = picture("PNG", (1200, 1000))
    assert len(large) > 2**21
    body = (
        b'--a\r\nContent-Disposition: form-data; name="files"; filename="/tmp/a.png"\r\n\r\n' + large + b"\r\n--a--\r\n"
    )
    kind = "multipart/form-data; boundary=a"
    with subprocess.Popen([sys.executable, "-c", WATCHED], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        port = int(re.search(r":(\d+) ", process.stderr.readline())[1])  # type: ignore[index]
        for path in ("/v1/predict?larger=tiles", "/v1/explain"):
            status, found = said(talk(port, head(len(body), path=path, kind=kind), body, seconds=60))
            assert status == 200, found
        for path in ("/", "/static/app.js", "/docs", "/metrics", "/openapi.json"):
            assert b" 200 OK" in talk(
                port, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
            )
        process.terminate()
        assert process.stderr.read() == "stopped: all that had been accepted was answered\n"
    assert process.returncode == 0 and not list(tmp_path.iterdir())
