"""How much one rounding matters to a model whose inputs cannot be moved by one: its weights are moved instead."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tightship.core.model import Form, Model
from tightship.measure.parity import perturbed

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["has_float_inputs", "with_moved_weights"]


def has_float_inputs(model: Model) -> bool:
    """Whether `parity.perturbed` moves any input."""
    return any("float" in spec.dtype for spec in model.inputs)


def with_moved_weights(model: Model) -> Model:
    """Return the model with every float weight moved up or down by two roundings of its type."""
    return _MOVERS[model.form](model)


def _graph(model: Model) -> Model:
    import onnx_ir

    graph: onnx_ir.Model = model.graph.clone()
    for value in graph.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.dtype.is_floating_point() and tensor.dtype.itemsize >= 2:
            moved = perturbed({"": tensor.numpy()})[""]
            value.const_value = onnx_ir.Tensor(moved, dtype=tensor.dtype, name=value.name)
    return replace(model, content=graph)


def _module(model: Model) -> Model:
    import torch

    module = copy.deepcopy(model.content.module)
    with torch.no_grad():
        for number, weight in enumerate(module.parameters()):
            if weight.dtype in (torch.float32, torch.float64):
                weight.copy_(torch.from_numpy(perturbed({"": weight.numpy()}, seed=number)[""]))
    return replace(model, content=replace(model.content, module=module))


def _keras(model: Model) -> Model:
    import keras

    network = keras.models.clone_model(model.content)
    weights = model.content.get_weights()
    network.set_weights([perturbed({"": np.asarray(weight)}, seed=number)[""] for number, weight in enumerate(weights)])
    return replace(model, content=network)


_MOVERS: Mapping[Form, Callable[[Model], Model]] = {"graph": _graph, "module": _module, "keras": _keras}
