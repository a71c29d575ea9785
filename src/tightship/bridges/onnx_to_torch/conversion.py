"""The bridge itself: a Model of the graph form becomes one of the module form."""

from __future__ import annotations

from dataclasses import replace

from tightship.core import extras
from tightship.core.model import Model, Step, TorchModule
from tightship.core.progress import SILENT, Progress
from tightship.core.specs import TensorSpec
from tightship.core.torch_module import BATCH
from tightship.errors import TightshipError, UnsupportedError

__all__ = ["to_module"]


def to_module(model: Model, progress: Progress = SILENT) -> Model:
    """Convert a graph to a module with the same names of inputs and outputs; `model` stays as it was.

    The module takes its inputs by position and returns a dict by output name. Operators whose weights are constants
    become layers of `torch.nn`, so training and pruning see them; it is in eval mode. An axis 0 that every input
    leaves free is called `batch`. Raises `UnsupportedOperators` (all at once) and `InvalidModel`.
    """
    extras.require("torch", "converting an ONNX model to PyTorch")
    from tightship.bridges.onnx_to_torch import preparation
    from tightship.bridges.onnx_to_torch.examples import example_inputs
    from tightship.bridges.onnx_to_torch.lowering import lower

    with progress.step("converting ONNX to PyTorch"):
        graph = preparation.prepare(model)
        try:
            module = lower(graph).eval()
        except TightshipError:
            raise
        except RecursionError as error:
            raise UnsupportedError("subgraphs are nested too deeply to be converted; inline or flatten them") from error
        examples = example_inputs(model.inputs, graph)
    inputs, outputs = _with_batch(model)
    step = Step("onnx-to-torch")
    return Model("module", TorchModule(module, examples), inputs, outputs, (*model.history, step))


def _with_batch(model: Model) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Call axis 0 `batch` where every input leaves it free under one name; the module form knows it by that name."""
    first = {spec.shape[:1] for spec in model.inputs}
    name = next(iter(first), ())
    if len(first) != 1 or not name or isinstance(name[0], int):
        return model.inputs, model.outputs

    def renamed(spec: TensorSpec) -> TensorSpec:
        return replace(spec, shape=tuple(BATCH if dim == name[0] and dim != "?" else dim for dim in spec.shape))

    inputs = tuple(replace(spec, shape=(BATCH, *renamed(spec).shape[1:])) for spec in model.inputs)
    return inputs, tuple(renamed(spec) for spec in model.outputs)
