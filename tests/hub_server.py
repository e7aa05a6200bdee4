"""A small Hub in this process: what huggingface_hub asks for to list, fetch, create, upload and commit, in memory."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_thisisatokenofatest"
LARGE = (".onnx", ".safetensors", ".bin")


@dataclass
class Repo:
    """Its commits, each all files by name; the last is main's."""

    private: bool = True
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: dict[str, bytes], message: str = "") -> str:
        """A new commit of main: what was there, and these."""
        content = {**self.commits.get(self.refs.get("main", ""), {}), **files}
        made = hashlib.sha1(f"{len(self.commits)}{sorted(content.items())}".encode()).hexdigest()
        self.commits[made] = content
        self.refs["main"] = made
        self.messages.append(message)
        return made

    def at(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.refs.get(revision)


class LocalHub(ThreadingHTTPServer):
    """``address`` is its endpoint; ``asked`` what was asked for; ``broken`` an answer to everything."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()
        self.broken: int | None = None

    def add(self, name: str, files: dict[str, bytes], **known: Any) -> str:
        """A repository with these files, or one more commit of it; its commit."""
        repo = self.repos.setdefault(name, Repo(**{"private": False, **known}))
        return repo.commit(files)


class Handler(BaseHTTPRequestHandler):
    server: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, body: Any = b"", **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        sent = {"Content-Length": str(len(content)), **{name.replace("_", "-"): each for name, each in headers.items()}}
        for name, value in sent.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, {"error": code}, X_Error_Code=code, X_Error_Message=code)

    def handle_one(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or self.chunks()
        path = unquote(urlsplit(self.path).path)
        authorization = self.headers.get("Authorization")
        self.server.asked.append(f"{self.command} {path}")
        self.server.tokens.add(authorization)
        if self.server.broken:
            return self.refuse(self.server.broken, "Broken")
        writes = self.command in ("POST", "PUT") and not path.startswith("/api/validate-yaml")
        if writes and authorization != f"Bearer {TOKEN}" and not path.startswith("/large/"):
            return self.answer(401, {"error": "Invalid credentials in Authorization header"})
        for pattern, method in ROUTES:
            if found := re.fullmatch(pattern, path):
                return getattr(self, method)(body, **found.groupdict())
        return self.refuse(404, "RepoNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = handle_one

    def chunks(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return b""
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def found(self, repo: str, revision: str) -> tuple[Repo, str] | None:
        known = self.server.repos.get(repo)
        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if known is None or (known.private and not allowed):
            self.refuse(401, "RepoNotFound")
        elif known.gated:
            self.refuse(403, "GatedRepo")
        elif (commit := known.at(revision)) is None:
            self.refuse(404, "RevisionNotFound")
        else:
            return known, commit
        return None

    def info(self, body: bytes, repo: str, revision: str = "main") -> None:
        if (found := self.found(repo, revision)) is None:
            return
        known, commit = found
        files = [{"rfilename": name, **described(content, name)} for name, content in known.commits[commit].items()]
        self.answer(200, {"id": repo, "modelId": repo, "sha": commit, "private": known.private, "siblings": files})

    def resolve(self, body: bytes, repo: str, revision: str, file: str) -> None:
        if (found := self.found(repo, revision)) is None:
            return
        known, commit = found
        content = known.commits[commit].get(file)
        if content is None:
            return self.refuse(404, "EntryNotFound")
        etag = hashlib.sha256(content).hexdigest() if file.endswith(LARGE) else git_id(content)
        self.answer(200, content, ETag=f'"{etag}"', X_Repo_Commit=commit, X_Linked_Size=str(len(content)))

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else f"me/{asked['name']}"
        if name in self.server.repos:
            return self.answer(409, {"error": "You already created this model repo", "url": name})
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.server.repos[name] = Repo(private=private)
        self.server.repos[name].commit({".gitattributes": b"*.onnx filter=lfs\n"}, "initial commit")
        self.answer(200, {"url": f"{self.server.address}/{name}", "name": name, "id": name})

    def preupload(self, body: bytes, repo: str, revision: str) -> None:
        if (found := self.found(repo, revision)) is None:
            return
        known, commit = found
        files = []
        for each in json.loads(body)["files"]:
            old = known.commits[commit].get(each["path"])
            large = each["path"].endswith(LARGE)
            oid = None if old is None else hashlib.sha256(old).hexdigest() if large else git_id(old)
            mode = "lfs" if large else "regular"
            files.append({"path": each["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.answer(200, {"files": files})

    def batch(self, body: bytes, repo: str) -> None:
        objects = []
        for each in json.loads(body)["objects"]:
            upload = {"upload": {"href": f"{self.server.address}/large/{each['oid']}"}}
            have = each["oid"] in self.server.large
            objects.append({**each, **({} if have else {"actions": upload})})
        self.answer(200, {"transfer": "basic", "objects": objects})

    def store(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            return self.answer(400, {"error": "not the content of that digest"})
        self.server.large[oid] = body
        self.answer(200)

    def commit(self, body: bytes, repo: str, revision: str) -> None:
        if (found := self.found(repo, revision)) is None:
            return
        known, _ = found
        files, message = {}, ""
        for line in body.decode().splitlines():
            part = json.loads(line)
            value = part["value"]
            if part["key"] == "header":
                message = value["summary"]
            elif part["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                files[value["path"]] = self.server.large[value["oid"]]
        made = known.commit(files, message)
        url = f"{self.server.address}/{repo}/commit/{made}"
        self.answer(200, {"success": True, "commitOid": made, "commitUrl": url, "hookOutput": ""})

    def validate(self, body: bytes) -> None:
        self.answer(200, {"errors": [], "warnings": []})

    def whoami(self, body: bytes) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid username or password."})
        self.answer(200, {"type": "user", "name": "me", "orgs": []})


REPO, REVISION = r"(?P<repo>[^/]+/[^/]+)", r"(?P<revision>[^/]+|refs/[^/]+/[^/]+)"
ROUTES = [
    (f"/api/models/{REPO}", "info"),
    (f"/api/models/{REPO}/revision/{REVISION}", "info"),
    (f"/{REPO}/resolve/{REVISION}/(?P<file>.+)", "resolve"),
    ("/api/repos/create", "create"),
    (f"/api/models/{REPO}/preupload/{REVISION}", "preupload"),
    (rf"/{REPO}\.git/info/lfs/objects/batch", "batch"),
    ("/large/(?P<oid>[0-9a-f]{64})", "store"),
    (f"/api/models/{REPO}/commit/{REVISION}", "commit"),
    ("/api/validate-yaml", "validate"),
    ("/api/whoami-v2", "whoami"),
]


def described(content: bytes, name: str) -> dict[str, Any]:
    large = {"lfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}}
    return {"size": len(content), "blobId": git_id(content), **(large if name.endswith(LARGE) else {})}


def git_id(content: bytes) -> str:
    """The SHA-1 that git knows a file by."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def local_hub() -> Iterator[LocalHub]:
    """The server, in a thread, while the block lasts."""
    with LocalHub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
