"""From raw times and probabilities to what the page shows. Arithmetic alone: nothing here measures or draws."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lightning_cifake.classes import CLASS_NAMES

BATCHES = (1, 32, 256)
DECISION = 0.5  # P(REAL) above which an image is REAL
SHOWN = 20  # disagreeing images that are listed


def spread(values: Sequence[float]) -> dict[str, Any] | None:
    """Median, lowest and highest of repeats, and all of them; None of none."""
    if not values:
        return None
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "all": list(values)}


def pairwise(rounds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """How many times b's rate a has: the ratio of each round, where the two ran one after the other, and its spread.

    Args:
        rounds: of each engine its rate in every round; one that fell out has fewer, and is compared over those.

    Returns:
        ``result[a][b]``: :func:`spread` of a's rate over b's.
    """
    found: dict[str, dict[str, Any]] = {}
    for ours, our_rates in rounds.items():
        for theirs, their_rates in rounds.items():
            both = [a / b for a, b in zip(our_rates, their_rates, strict=False)]
            if ours != theirs and both:
                found.setdefault(ours, {})[theirs] = spread(both)
    return found


def training(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Of one engine's raw record: starts, epochs, turns.

    ``turns`` are what the worker replied to {"steps": n}; ``waiting_share`` is the part of a step that the loop waited
    for its batch, None where the framework does not tell.
    """
    turns = raw.get("turns", [])
    waited = [turn["waiting"] / turn["seconds"] for turn in turns if turn["waiting"] is not None]
    return {
        "start_to_first_step_s": spread(raw.get("first_step", [])),
        "first_epoch_s": spread(raw.get("first_epoch", [])),
        "images_per_second": spread(rates(turns)),
        "waiting_share": spread(waited),
        "peak_mib": raw.get("peak_mib"),
    }


def rates(turns: Sequence[Mapping[str, float]]) -> list[float]:
    """Images/s of each turn."""
    return [turn["images"] / turn["seconds"] for turn in turns]


def inference(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Of one engine's raw record: cold starts, and the seconds of every repeat by batch size, round by round."""
    seconds = raw.get("seconds", {})
    single = 1e3 * np.array([each for turn in seconds.get("1", []) for each in turn])
    return {
        "cold_start_s": spread(raw.get("cold", [])),
        "one_image_ms": {f"p{p}": float(np.percentile(single, p)) for p in (50, 95, 99)} if len(single) else None,
        "images_per_second": {str(batch): spread(answer_rates(raw, batch)) for batch in BATCHES},
        "peak_mib": raw.get("peak_mib"),
    }


def answer_rates(raw: Mapping[str, Any], batch: int) -> list[float]:
    """Images/s in each round: from the median of its repeats."""
    return [batch / statistics.median(turn) for turn in raw.get("seconds", {}).get(str(batch), [])]


def max_disagreement(probabilities: Mapping[str, np.ndarray]) -> tuple[str, str, float] | None:
    """The two engines whose (N,) probabilities of the same images differ most, and by how much; None of fewer."""
    names = list(probabilities)
    pairs = [
        (a, b, float(np.abs(probabilities[a] - probabilities[b]).max()))
        for at, a in enumerate(names)
        for b in names[at + 1 :]
    ]
    return max(pairs, key=lambda pair: pair[2], default=None)


def agreement(probabilities: Mapping[str, np.ndarray], labels: np.ndarray, paths: Sequence[str]) -> dict[str, Any]:
    """Accuracy of each engine, and the images that they do not all decide alike.

    Args:
        probabilities: (N,) P(REAL) of each engine.
        labels: (N,) FAKE = 0, REAL = 1.
        paths: of the N images.
    """
    if not probabilities:
        return {"images": 0, "accuracy": {}, "disagreeing": 0, "listed": []}
    decided = {name: each > DECISION for name, each in probabilities.items()}
    together = np.stack(list(decided.values()))
    differing = np.flatnonzero((together != together[0]).any(axis=0))
    listed = [
        {
            "path": paths[at],
            "label": CLASS_NAMES[int(labels[at])],
            "prob_real": {name: round(float(each[at]), 6) for name, each in probabilities.items()},
        }
        for at in differing[:SHOWN]
    ]
    accuracy = {name: float((each == (labels == 1)).mean()) for name, each in decided.items()}
    return {"images": len(labels), "accuracy": accuracy, "disagreeing": len(differing), "listed": listed}
