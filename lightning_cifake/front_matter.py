"""A card's front matter: the YAML before its Markdown, which the Hugging Face Hub reads."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from lightning_cifake.errors import UserError

_FRONT = re.compile(r"---\n(.*?)\n---\n(.*)", re.DOTALL)


def with_front_matter(front: Mapping[str, Any], body: str) -> str:
    """A card: the YAML that the Hub reads, and what people do."""
    return f"---\n{yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True, width=120)}---\n\n{body.strip()}\n"


def without_front_matter(card: str) -> str:
    """What people read of a card; nothing of the rest is parsed."""
    found = _FRONT.fullmatch(card)
    return found[2] if found else card


def split_front_matter(card: str, what: str = "the card") -> tuple[dict[str, Any], str]:
    """What the Hub reads of a card, empty where there is none, and what people read.

    Args:
        card: Markdown, perhaps with YAML between its first lines ``---``.
        what: that it is called in an error.

    Raises:
        UserError: between these lines stands something else.
    """
    found = _FRONT.fullmatch(card)
    if found is None:
        return {}, card
    try:
        front = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        raise UserError(f"{what}: expected YAML between its first lines ---, got something else") from error
    if not isinstance(front, dict):
        raise UserError(f"{what}: expected names and values between its first lines ---")
    return front, found[2]
