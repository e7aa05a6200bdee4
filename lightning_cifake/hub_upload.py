"""What is sent to the Hugging Face Hub: planned against what is there, shown, and sent as one commit."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lightning_cifake.errors import UserError
from lightning_cifake.files import sha256_of
from lightning_cifake.front_matter import with_front_matter
from lightning_cifake.hub import SCHEME, HubName, hub_errors, is_lost, library, parse_name

LIBRARY = "lightning_cifake"
NEW, CHANGED, SAME, UNKNOWN = "new", "changed", "same", "not compared"


class Upload(NamedTuple):
    """What is to be in a repository: ``owner/name``, and each file's content, or where it lies, by its name there."""

    repo: str
    files: Mapping[str, bytes | Path]


class Planned(NamedTuple):
    """A file that would go: its size, its SHA-256, and whether the Hub has it."""

    name: str
    size: int
    sha256: str
    state: str


class Plan(NamedTuple):
    """What a push would do.

    Attributes:
        upload: what was asked for.
        files: of it, each.
        commit: of the repository now; None where there is none, or none that may be seen.
        there: the names of its files now.
        private: whether it is; None where that is not known.
        reason: why the Hub was not asked, else None.
    """

    upload: Upload
    files: list[Planned]
    commit: str | None
    there: list[str]
    private: bool | None
    reason: str | None = None

    @property
    def changes(self) -> list[Planned]:
        return [each for each in self.files if each.state != SAME]


def repo_name(text: str) -> str:
    """``owner/name``, as ``--to`` has it; with ``hf://`` before it, too.

    Raises:
        UserError: it is none.
    """
    name = parse_name(text if text.startswith(SCHEME) else f"{SCHEME}{text}")
    if name.revision or name.file:
        raise UserError(f"{text}: expected owner/name alone: a push goes to main, as one commit")
    return name.repo


def plan(upload: Upload, compare: bool = True) -> Plan:
    """Holds what is to be sent against what is there. Sends nothing.

    Args:
        upload: what is to be sent.
        compare: that the Hub must be reached; else that it was not is said in the plan.

    Raises:
        UserError: no name that the Hub takes; with ``compare``, the Hub cannot be reached.
        MissingExtra: huggingface_hub is not installed.
    """
    name, hub = HubName(f"{SCHEME}{upload.repo}", repo_name(upload.repo)), library("push")
    try:
        with hub_errors(name, hub):
            try:
                info = hub.HfApi().model_info(name.repo, files_metadata=True, timeout=10.0)
            except hub.errors.RepositoryNotFoundError:  # or one that may not be seen: sending will tell
                return Plan(upload, _planned(upload, None), None, [], None)
    except UserError as error:
        if compare or not is_lost(error):
            raise
        return Plan(upload, _planned(upload, {}, UNKNOWN), None, [], None, str(error))
    there = {each.rfilename: each for each in info.siblings or ()}
    return Plan(upload, _planned(upload, there), info.sha, sorted(there), info.private)


def _planned(upload: Upload, there: Mapping[str, Any] | None, state: str | None = None) -> list[Planned]:
    found = []
    for name, content in upload.files.items():
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        sha256 = sha256_of(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()
        old = (there or {}).get(name)
        now = NEW if old is None else SAME if _same(old, content, sha256) else CHANGED
        found.append(Planned(name, size, sha256, state or now))
    return found


def _same(old: Any, content: bytes | Path, sha256: str) -> bool:
    """By the digest that the Hub keeps of it: SHA-256 of a large file, git's of others."""
    if old.lfs is not None:
        return bool(old.lfs.sha256 == sha256)
    data = content.read_bytes() if isinstance(content, Path) else content
    return bool(old.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest())


def send(planned: Plan, private: bool, message: str) -> str | None:
    """Makes the repository where there is none, and sends what differs as one commit; returns its address.

    None where nothing differs: then nothing is sent.

    Args:
        planned: of :func:`plan`. What was committed in between is not written over: then it is refused.
        private: for one that is made; one that is there stays as it is.
        message: of the commit.

    Raises:
        UserError: nobody is logged in, not allowed, the Hub cannot be reached, it has changed since it was planned.
    """
    hub = library("push")
    if planned.commit is not None and not planned.changes:
        return None
    name = HubName(f"{SCHEME}{planned.upload.repo}", planned.upload.repo)
    with hub_errors(name, hub):
        if hub.get_token() is None:
            raise UserError(f"{name.text}: nobody is logged in: run `hf auth login`, or set HF_TOKEN")
        api = hub.HfApi()
        if planned.commit is None:
            api.create_repo(name.repo, private=private, exist_ok=True)
        operations = [
            hub.CommitOperationAdd(each.name, content if isinstance(content, bytes) else str(content))
            for each in planned.changes
            for content in [planned.upload.files[each.name]]
        ]
        made = api.create_commit(name.repo, operations, commit_message=message, parent_commit=planned.commit)
    return str(made.commit_url)


def front_matter() -> dict[str, Any]:
    """What any card of this package says."""
    return {
        "library_name": LIBRARY,
        "pipeline_tag": "image-classification",
        "tags": ["ai-generated-image-detection"],
    }


def usage(repo: str, weights: bool) -> str:
    """How to ask the model, in Markdown."""
    lines = ["## Use", "", "```", "pip install 'lightning_cifake[hub]'"]
    lines += [f"lightning-cifake predict --model hf://{repo} photo.jpg", "```"]
    if weights:
        lines += ["", "```python", "from lightning_cifake import FakeImageClassifier", ""]
        lines += [f'classifier = FakeImageClassifier.from_pretrained("{repo}")', "```"]
    return "\n".join(lines) + "\n"


def plain_card(repo: str, weights: bool, worth: str | None = None) -> str:
    """A card that says no more than what anybody can, and how good the model is: a sentence, where that is known."""
    worth = worth or "No evaluation is published with it: how far it can be trusted is not known."
    body = (
        f"# {repo.partition('/')[2]}\n\nTells AI-generated images from photographs. Its answer is P(REAL): 1 for a "
        f"photograph, 0 for a generated image.\n\n{worth}\n\n{usage(repo, weights)}"
    )
    return with_front_matter(front_matter(), body)
