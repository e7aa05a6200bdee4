"""What jsonargparse and argparse say of an argument, as one line: what was expected and what it got."""

import re

from lightning_cifake.spelling import did_you_mean
from lightning_cifake.text import printable, reason_of, shorten

_KEY = re.compile(r'(?:Parser key "(?P<key>[^"]*)":)?(?P<rest>.*)', re.DOTALL)
_CLASS = re.compile(
    r"Problem with given class_path '(?P<path>[^']*)':\s*(?P<reason>.*?)(?=\n\s*- |\nGiven value|\Z)", re.S
)
_EXPECTED = re.compile(r"Expected an? (?P<what><class '[^']*'>|typing\.Literal\[[^\]]*\]|[^\n.]+)")
_GOT = re.compile(r"(?:Given value: |Got value: )(?P<value>.*)", re.DOTALL)
_LITERAL = "typing.Literal["


def parser_reason(error: BaseException) -> str:
    """A message of jsonargparse's, which lists every type it tried over several lines, as one short line."""
    text = str(error)
    found = _KEY.match(text)
    key, rest = (found["key"], found["rest"]) if found else (None, text)
    prefix = f"{printable(key)}: " if key else ""
    if made := _CLASS.search(rest):
        return f"{prefix}{printable(made['path'])}: {reason_of(ValueError(made['reason']))}"
    expected, got = _EXPECTED.findall(rest), _GOT.search(rest)
    if key and expected and got:
        value = got["value"].strip()
        # a union of classes also tries a path to a file of arguments: nobody meant that
        known = dict.fromkeys(_plain(one) for one in expected if not one.startswith("path but"))
        what = " or ".join(sorted(known, key=lambda each: each == "null"))  # their order is jsonargparse's version's
        names = [name for one in expected if one.startswith(_LITERAL) for name in _choices(one).split(", ")]
        return (
            f"{prefix}expected {shorten(what)}, got {shorten(printable(value), 80) or 'nothing'}"
            f"{did_you_mean(value, names)}"
        )
    return reason_of(error).removeprefix("argument ")


def _choices(literal: str) -> str:
    return literal[len(_LITERAL) : -1].replace("'", "")


def _plain(expected: str) -> str:
    if expected.startswith(_LITERAL):
        return f"one of {_choices(expected)}"
    if expected.startswith("dot import path"):
        return "a class as package.module.Class"
    if expected.startswith("<class '"):
        name = expected[len("<class '") : -2].rpartition(".")[2]
        return {
            "NoneType": "null",
            "str": "text",
            "bool": "true or false",
            "float": "a number",
            "int": "a whole number",
        }.get(name, name)
    return printable(expected)
