"""An exported model and its manifest -> another one whose ``prob_real`` is calibrated, with a threshold of its own.

The network in it stays as it is, to the last bit: only what comes behind its logit is written anew.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lightning_cifake.deploy import export, manifest, verification
from lightning_cifake.deploy.detector import Detector
from lightning_cifake.deploy.verified_export import scratch
from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.calibration import KEY, Calibration
from lightning_cifake.files import replacing, sealed_json, sha256_of
from lightning_cifake.text import reason_of

RAW = "uncalibrated_logit"  # the network's own logit, in the graph of a calibrated model
PART = "calibration_"  # what the names of all that is added begin with


def calibrate_graph(model: onnx.ModelProto, calibration: Calibration) -> None:
    """Puts a map between the network's own logit and the outputs, in the place of the one that is there.

    Raises:
        UserError: the graph does not end as that of an export.
    """
    graph = model.graph
    raw = _take_off(model)
    logit = _divide(graph, raw, calibration.temperature) if calibration.temperature != 1 else raw
    logit = _bend(graph, logit, np.array(calibration.knots)) if calibration.knots else logit
    graph.node.append(helper.make_node("Identity", [logit], ["logit"], f"{PART}end"))
    graph.node.append(helper.make_node("Sigmoid", ["logit"], ["prob_real"], f"{PART}sigmoid"))


def _take_off(model: onnx.ModelProto) -> str:
    """Removes what stands between the network's own logit and the outputs; that logit's name."""
    graph = model.graph
    made_by = {output: node for node in graph.node for output in node.output}
    last = made_by.get("prob_real")
    if last is None or last.op_type != "Sigmoid" or list(last.input) != ["logit"] or "logit" not in made_by:
        raise UserError("the graph does not end as an export's does (logit -> Sigmoid -> prob_real): export it again")
    ours = [node for node in graph.node if node.name.startswith(PART)]
    if RAW in made_by:
        drop = [last, made_by["logit"], *ours]
    else:
        end, drop = made_by["logit"], [last]
        if _is_division(model, end):
            drop.append(end)
            _rename(graph, end.input[0], RAW)
        else:
            _rename(graph, "logit", RAW)
    kept = [node for node in graph.node if not any(node is each for each in drop)]
    del graph.node[:]
    graph.node.extend(kept)
    used = {name for node in kept for name in node.input}
    for values in (graph.initializer, graph.value_info):
        held = [each for each in values if not each.name.startswith(PART) and (each.name in used or _made(kept, each))]
        del values[:]
        values.extend(held)
    return RAW


def _made(nodes: list[onnx.NodeProto], value: Any) -> bool:
    return any(value.name in node.output for node in nodes)


def _is_division(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """By a temperature that export put in: metadata name it, and a network's own last step may be a division too."""
    told = {each.key: each.value for each in model.metadata_props}
    temperature = np.float32(told.get("temperature", 1))
    if node.op_type != "Div" or temperature == 1:
        return False
    values = [numpy_helper.to_array(each) for each in model.graph.initializer if each.name == node.input[1]]
    return len(values) == 1 and values[0].size == 1 and np.isclose(values[0].item(), temperature, rtol=1e-6)


def _rename(graph: onnx.GraphProto, name: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for at, each in enumerate(names):
                if each == name:
                    names[at] = new
    for info in graph.value_info:
        if info.name == name:
            info.name = new


def _add(graph: onnx.GraphProto, kind: str, name: str, *inputs: Any, **attributes: Any) -> str:
    """A node; those of its inputs that are no names become constants. Its output's name."""
    names = []
    for number, value in enumerate(inputs):
        if not isinstance(value, str):
            constant = f"{PART}{name}_{number}"
            graph.initializer.append(numpy_helper.from_array(np.asarray(value), constant))
            value = constant
        names.append(value)
    output = f"{PART}{name}"
    graph.node.append(helper.make_node(kind, names, [output], f"{PART}node_{name}", **attributes))
    return output


def _divide(graph: onnx.GraphProto, logit: str, temperature: float) -> str:
    return _add(graph, "Div", "divided", logit, np.float32(temperature))


def _bend(graph: onnx.GraphProto, logit: str, knots: np.ndarray) -> str:
    """logit + interp(logit, at, to - at): a sum of ramps, each from 0 to 1 between two knots. (K, 2) knots."""
    at, moved = knots[:, 0], knots[:, 1] - knots[:, 0]
    column = _add(graph, "Unsqueeze", "column", logit, np.array([1]))  # (N, 1)
    past = _add(graph, "Sub", "past", column, at[:-1].astype(np.float32))  # (N, K - 1)
    share = _add(graph, "Div", "share", past, np.diff(at).astype(np.float32))
    ramps = _add(graph, "Clip", "ramps", share, np.float32(0), np.float32(1))
    steps = _add(graph, "Mul", "steps", ramps, np.diff(moved).astype(np.float32))
    total = _add(graph, "ReduceSum", "total", steps, np.array([1]), keepdims=0)
    shift = _add(graph, "Add", "shift", total, np.float32(moved[0]))
    return _add(graph, "Add", "bent", logit, shift)


def write_calibrated(
    source: Path, output: Path, calibration: Calibration, threshold: float, record: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Writes the calibrated model and its manifest, both whole, or neither.

    Args:
        source: an exported model, its manifest beside it; it is not changed.
        output: MODEL.onnx to write.
        calibration: from the network's own logits.
        threshold: of the calibrated P(REAL), in [0, 1].
        record: what was fitted on which images, for metadata and manifest.

    Returns:
        What the manifest holds, and the reasons why nothing was written: none where it was.

    Raises:
        UserError: the source or its manifest is not what export wrote, or the disk is full.
    """
    written, _ = manifest.read_manifest(source)
    before = Detector(source)
    old = Calibration.of_metadata(before.facts.metadata)

    def change(logits: np.ndarray) -> np.ndarray:
        return calibration(old.inverse(logits))

    model = onnx.load_model(source)
    calibrate_graph(model, calibration)
    facts = {
        **before.facts.metadata,
        "decision_threshold": threshold,
        "temperature": calibration.temperature,
        KEY: {**record, "knots": [list(knot) for knot in calibration.knots]},
    }
    export.set_metadata(model, facts)
    verification.check_graph(model)
    with scratch(output) as folder:
        temporary = folder / output.name
        temporary.write_bytes(export.serialized(model))
        detector = Detector(temporary)
        content = {
            **manifest.environment_info(),
            "limits": written.get("limits"),
            "answers": _moved(written, change),
            "calibration": record,
            "made_of": {name: written.get(name) for name in ("model", "real", "hard", "calibration", "made_of")},
            "model": {
                **written["model"],
                "file": output.name,
                "sha256": sha256_of(temporary),
                "bytes": temporary.stat().st_size,
                **{name: facts[name] for name in ("decision_threshold", "temperature", KEY)},
            },
        }
        violations = verification.repeat_answers(detector, content)
        if not violations:
            with replacing(manifest.manifest_path(output)) as described, replacing(output) as target:
                temporary.replace(target)
                described.write_text(sealed_json(content), encoding="utf-8")
    return content, violations


def _moved(written: Mapping[str, Any], change: Callable[[np.ndarray], np.ndarray]) -> dict[str, Any]:
    """The answers that a manifest keeps, (Lightning's, the file's) logits, as they are after a change of the map."""

    def moved(pair: list[float]) -> list[float]:
        return [float(f"{value:.9g}") for value in change(np.array(pair)).tolist()]

    try:
        answers = written["answers"]
        return {
            "demo": [moved(pair) for pair in answers["demo"]],
            "hard": {name: moved(pair) for name, pair in answers["hard"].items()},
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"the model's manifest does not hold its answers ({reason_of(error)}): export it again"
        ) from error
