"""The right name for a misspelt one: of commands, flags, configurations and choices."""

from collections.abc import Iterable

NO_FLAG = "no such flag: "
SHORTEST = 3  # letters of a beginning that stands for the whole name
NEAR = 0.7  # of difflib's ratio; two letters changed places in a word of six have 0.83


def closest(given: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant; None where none is near.

    Names are compared whole and by what stands behind their last dot or slash, so that ``--lerning_rate`` finds
    ``--model.learning_rate`` and ``meso4`` finds ``networks/meso4``. Hyphens count as underscores, capitals as small
    letters.
    """
    from difflib import get_close_matches

    keys: dict[str, str] = {}
    for name in names:
        keys.setdefault(_key(name), name)
    for name in list(keys.values()):
        keys.setdefault(_key(_end(name)), name)  # a whole name wins over the end of another
    start = _key(given)
    begun = min((key for key in keys if key.startswith(start)), key=len, default=None)
    if begun is not None and len(start) >= SHORTEST:
        return keys[begun]
    found = get_close_matches(start, keys, n=1, cutoff=NEAR) or get_close_matches(
        _key(_end(given)), keys, n=1, cutoff=NEAR
    )
    return keys[found[0]] if found else None


def did_you_mean(given: str, names: Iterable[str]) -> str:
    """``; did you mean NAME?``, or nothing."""
    name = closest(given, names)
    return "" if name is None else f"; did you mean {name}?"


def no_such_flag(flag: str, flags: Iterable[str]) -> str:
    """What is said of a flag that there is not."""
    return f"{NO_FLAG}{flag}{did_you_mean(flag, flags)}"


def _end(name: str) -> str:
    return name.replace("/", ".").rpartition(".")[2]


def _key(name: str) -> str:
    return name.lower().lstrip("-").replace("-", "_")
