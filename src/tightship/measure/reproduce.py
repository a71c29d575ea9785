"""A difference cut down to what shows it: the operator alone, in both models, with its inputs and both outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tightship.core import atomic
from tightship.core.dataset import Dataset
from tightship.core.feeds import feeds
from tightship.core.graph import from_ir, to_bytes
from tightship.core.model import Model
from tightship.core.session import Arrays
from tightship.core.target import Target
from tightship.engines import open_session
from tightship.measure.locate import Difference, exposing
from tightship.measure.matching import match_values, paired_inputs

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["FILES", "reproduce"]

FILES = frozenset({"expected.onnx", "found.onnx", "inputs.npz", "outputs.npz", "reproduce.py"})

_SCRIPT = '''"""{about}

Needs numpy and onnxruntime{also}: python reproduce.py
"""

from pathlib import Path

import numpy as np
{imports}
here = Path(__file__).parent
{run}

def main() -> None:
    inputs = dict(np.load(here / "inputs.npz"))
    expected, found = run_{first}("expected.onnx", inputs), run_{second}("found.onnx", inputs)
    print("largest value", np.abs(expected).max(), "largest difference", np.abs(expected - found).max())


main()
'''

_RUN = {
    "onnxruntime": (
        "import onnxruntime",
        """
def run_onnxruntime(name: str, inputs: dict) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(here / name), providers=["CPUExecutionProvider"])
    return session.run(None, {value.name: inputs[value.name] for value in session.get_inputs()})[0].astype("float64")
""",
    ),
    "openvino": (
        "import openvino",
        """
def run_openvino(name: str, inputs: dict) -> np.ndarray:
    model = openvino.Core().compile_model(str(here / name), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return model({value.any_name: inputs[value.any_name] for value in model.inputs})[0].astype("float64")
""",
    ),
}


def reproduce(
    first: Model,
    second: Model,
    difference: Difference,
    targets: tuple[Target, Target],
    dataset: Dataset,
    folder: Path,
) -> Path:
    """Write the part of both graphs between the last tensors that agree and the first that differs into `folder`.

    `expected.onnx` and `found.onnx` are the parts of the first and the second model, `inputs.npz` what the first model
    feeds them on the first item of `dataset`, `outputs.npz` what each makes of it here, and `reproduce.py` a script
    that shows it with the engines alone. Inputs and the output have the same names in both.
    Raises `EngineError` where a part cannot be run, `OutputError` where the folder cannot be written.
    """
    matches = match_values(first, second)
    theirs = next(value for value in matches if value.name == difference.tensor)
    ours = matches[theirs]
    names = {other.name or "": value.name or "" for other, value in {**matches, **paired_inputs(first, second)}.items()}
    expected = _part(first, ours.name or "", set(names.values()), {})
    found = _part(second, theirs.name or "", set(names), {**names, theirs.name or "": ours.name or ""})
    fed = {value.name or "" for part in (expected, found) for value in part.graph.inputs}
    with atomic.replace_folder(folder, FILES) as place:
        inputs = _recorded(first, fed, targets[0], dataset)
        outputs = {}
        for name, untyped, target in (("expected", expected, targets[0]), ("found", found, targets[1])):
            part = _typed(untyped, inputs)
            (place / f"{name}.onnx").write_bytes(to_bytes(part))
            with open_session(part, target) as session:
                made = session.run({spec.name: inputs[spec.name] for spec in session.inputs})
            outputs[name] = next(iter(made.values()))
        np.savez(place / "inputs.npz", **inputs)  # type: ignore[arg-type]
        np.savez(place / "outputs.npz", **outputs)  # type: ignore[arg-type]
        (place / "reproduce.py").write_text(_script(difference, targets), encoding="utf-8")
    return folder


def _part(model: Model, tensor: str, bounds: set[str], renamed: Mapping[str, str]) -> onnx_ir.Model:
    """Cut out what makes `tensor` from the nearest tensors in `bounds`, these and it under other names."""
    import onnx_ir

    graph = model.graph.clone()
    by_name = {value.name: value for value in _values(graph)}
    inputs = list(_nearest(by_name[tensor], bounds))
    part = onnx_ir.convenience.extract(graph.graph, inputs, [by_name[tensor]])
    for value in (*part.inputs, *part.outputs):
        value.name = renamed.get(value.name or "", value.name)
    return onnx_ir.Model(part, ir_version=graph.ir_version, functions=list(graph.functions.values()))


def _typed(part: onnx_ir.Model, inputs: Arrays) -> Model:
    """The part with its inputs of the types and shapes of these arrays: inside a graph none need be written."""
    import onnx_ir

    for value in part.graph.inputs:
        array = inputs[value.name or ""]
        value.dtype = onnx_ir.DataType.from_numpy(array.dtype)
        value.shape = onnx_ir.Shape(array.shape)
    return from_ir(part)


def _nearest(value: onnx_ir.Value, bounds: set[str]) -> Iterator[onnx_ir.Value]:
    """The tensors in `bounds`, and the inputs of the graph, that are first met on the way back from `value`."""
    maker, seen = value.producer(), set()
    waiting = list(_read_by(maker)) if maker is not None else []
    while waiting:
        value = waiting.pop()
        if value in seen or value.is_initializer():
            continue
        seen.add(value)
        maker = value.producer()
        if value.name in bounds or maker is None:
            yield value
        else:
            waiting += _read_by(maker)


def _read_by(node: onnx_ir.Node) -> Iterator[onnx_ir.Value]:
    """What a node reads, from inside its subgraphs too."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        for subgraph in attribute.as_graphs() if attribute.type.name == "GRAPHS" else ():
            yield from (value for inner in subgraph for value in _read_by(inner))
        if attribute.type.name == "GRAPH":
            inside = list(attribute.as_graph())
            made = {value for inner in inside for value in inner.outputs} | set(attribute.as_graph().inputs)
            yield from (value for inner in inside for value in _read_by(inner) if value not in made)


def _values(graph: onnx_ir.Model) -> Iterator[onnx_ir.Value]:
    yield from graph.graph.inputs
    for node in graph.graph:
        yield from node.outputs


def _recorded(model: Model, names: set[str], target: Target, dataset: Dataset) -> Arrays:
    """What these tensors of a model hold on the first item."""
    feed = next(feeds(dataset, model.inputs, 1)).arrays
    inside = [value for node in model.graph.graph for value in node.outputs if value.name in names]
    if not inside:
        return {name: feed[name] for name in sorted(names)}
    with open_session(exposing(model, inside), target) as session:
        made = session.run({spec.name: feed[spec.name] for spec in session.inputs})
    return {name: made[name] if name in made else feed[name] for name in sorted(names)}


def _script(difference: Difference, targets: tuple[Target, Target]) -> str:
    engines = tuple(dict.fromkeys(target.engine for target in targets))
    return _SCRIPT.format(
        about=str(difference).replace("\\", "/"),
        also="".join(f" and {name}" for name in engines if name != "onnxruntime"),
        imports="\n".join(_RUN[name][0] for name in engines),
        run="".join(_RUN[name][1] for name in engines),
        first=targets[0].engine,
        second=targets[1].engine,
    )
