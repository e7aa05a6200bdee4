"""What stands between a network's logit and the outputs of an exported graph: a temperature, and perhaps a curve."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.calibration import Calibration

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
    used = set(_read(kept))
    for values in (graph.initializer, graph.value_info):
        held = [each for each in values if not each.name.startswith(PART) and (each.name in used or _made(kept, each))]
        del values[:]
        values.extend(held)
    return RAW


def _read(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """The names that nodes take, and those that their branches take from around them."""
    for node in nodes:
        yield from node.input
        for each in node.attribute:
            yield from _read(each.g.node)


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
