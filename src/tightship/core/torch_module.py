"""The module form: what a PyTorch module takes and gives, and its tensors to and from numpy.

A module is called with positional tensors, in the order of its specs; its outputs are named by `named_outputs`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tightship.core.model import Model, Step, TorchModule
from tightship.core.specs import TensorSpec
from tightship.errors import InvalidModel

if TYPE_CHECKING:
    import torch

__all__ = [
    "BATCH",
    "by_position",
    "exportable",
    "from_torch",
    "input_names",
    "named_outputs",
    "to_numpy",
    "to_torch",
    "vary",
]

BATCH = "batch"
"""Name of axis 0 of inputs and outputs of a module that was seen to take any number of items."""

_BATCH_TOLERANCE = 1e-3
"""Largest difference of an item computed alone and in a batch, relative to the largest output: kernels differ."""


def from_torch(
    module: torch.nn.Module, example_inputs: tuple[torch.Tensor, ...], history: tuple[Step, ...] = ()
) -> Model:
    """Wrap a module (in eval mode) as a Model of the module form; the example is run to learn the outputs.

    Axis 0 is called `batch` where two examples in one batch give what they give alone.
    Raises `InvalidModel` where the module does not run on its example, or gives anything but tensors.
    """
    inputs = dict(zip(input_names(module, len(example_inputs)), example_inputs, strict=True))
    try:
        outputs = _run(module, example_inputs)
    except InvalidModel:
        raise
    except Exception as error:  # a module's own code may raise anything
        raise InvalidModel(
            f"{type(module).__name__} fails on its example inputs ({_brief(inputs)}): {error}; "
            "give the tensors that forward takes, in its order"
        ) from error
    batched = _batched_outputs(module, example_inputs, outputs)
    return Model(
        "module",
        TorchModule(module, example_inputs),
        tuple(_spec(name, tensor, batched is not None) for name, tensor in inputs.items()),
        tuple(_spec(name, tensor, name in (batched or ())) for name, tensor in outputs.items()),
        history,
    )


def input_names(module: torch.nn.Module, count: int) -> tuple[str, ...]:
    """Return the names of forward's first `count` positional parameters; `*args` counts as `args_0`, `args_1`, ..."""
    names: list[str] = []
    for parameter in inspect.signature(module.forward).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}_{index}" for index in range(count - len(names))]
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    if len(names) < count:
        raise InvalidModel(
            f"{type(module).__name__}.forward takes {len(names)} positional inputs ({', '.join(names) or 'none'}), "
            f"found {count} example inputs; give one tensor per input"
        )
    return tuple(names[:count])


def named_outputs(result: object) -> dict[str, torch.Tensor]:
    """Name the tensors that a module returned.

    One tensor is `output`; items of a tuple are `output_0`, `output_1`; values of a mapping and fields of a dataclass
    keep their names; nested ones are joined by underscores. None is left out. Raises `InvalidModel` for anything else.
    """
    import torch

    if isinstance(result, torch.Tensor):
        return {"output": result}
    prefix = "output" if isinstance(result, tuple | list) else ""
    outputs = dict(_tensors(result, prefix))
    if not outputs:
        raise InvalidModel(f"the module returns no tensor, found {type(result).__name__}; forward must return tensors")
    return outputs


def exportable(model: Model) -> torch.nn.Module:
    """Return the module, or a wrapper around it where its outputs are not a tensor or a flat tuple or dict of tensors.

    The wrapper takes the same inputs and returns a dict by output name, so that an exporter needs to know neither the
    classes nor the nesting of what the module returns.
    """
    import torch

    content: TorchModule = model.content
    with torch.no_grad():
        result = content.module(*content.example_inputs)
    values = result.values() if type(result) is dict else result if type(result) in (tuple, list) else [result]
    if all(isinstance(value, torch.Tensor) for value in values):
        return content.module
    return by_position(content.module, tuple(spec.name for spec in model.inputs))


def vary(tensor: torch.Tensor, index: int) -> torch.Tensor:
    """Return a tensor like the example that differs from it: numbers with noise, integers in another order.

    `index` 0 gives the example itself.
    """
    import torch

    if index == 0 or not tensor.is_floating_point():
        return tensor.roll(index, -1) if tensor.ndim else tensor
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(index)).to(tensor.dtype)
    return tensor + 0.1 * noise * (tensor.abs().max() if tensor.any() else 1)


def to_torch(array: np.ndarray) -> torch.Tensor:
    """Turn an array into a tensor; memory is shared where the array is contiguous and may be written."""
    import torch

    array = np.ascontiguousarray(array).reshape(array.shape)  # ascontiguousarray gives scalars an axis
    if not array.flags.writeable:
        array = array.copy()
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def by_position(module: torch.nn.Module, names: tuple[str, ...], n_keywords: int = 0) -> torch.nn.Module:
    """Wrap a module into one that takes tensors `names` by position and returns a dict by output name.

    The last `n_keywords` of them are handed on by keyword.
    """
    import torch

    class Named(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
            n_positions = len(names) - n_keywords
            keywords = dict(zip(names[n_positions:], inputs[n_positions:], strict=True))
            return named_outputs(self.module(*inputs[:n_positions], **keywords))

    # Exporters name the inputs of a graph after the signature.
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in ("self", *names)]
    Named.forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped = Named()
    wrapped.training = False  # alone: an exported module refuses eval()
    return wrapped


def to_numpy(tensor: torch.Tensor, dtype: str | None = None) -> np.ndarray:
    """Copy a tensor to a fresh array, of the type that `dtype` names (None: its own)."""
    import torch

    tensor = tensor.detach().cpu().contiguous()
    if dtype is not None:
        tensor = tensor.to(getattr(torch, dtype))
    if tensor.dtype is torch.bfloat16:
        from ml_dtypes import bfloat16

        return np.array(tensor.view(torch.int16).numpy()).view(bfloat16)
    return np.array(tensor.numpy())


def _tensors(value: object, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    import torch

    if isinstance(value, torch.Tensor):
        yield name, value
    elif value is not None:
        for key, item in _items(value, name):
            yield from _tensors(item, f"{name}_{key}" if name else key)


def _items(value: object, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return ((str(key), item) for key, item in value.items())
    if isinstance(value, tuple | list):
        return ((str(index), item) for index, item in enumerate(value))
    if is_dataclass(value):
        return ((entry.name, getattr(value, entry.name)) for entry in fields(value))
    raise InvalidModel(
        f"output {name or 'of the module'} is of type {type(value).__name__}, expected tensors, or a tuple, dict or "
        "dataclass of them; wrap the module in one whose forward returns only those"
    )


def _run(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
    import torch

    with torch.no_grad():  # not inference_mode: what a module caches here must still be fit for training
        return named_outputs(module(*inputs))


def _batched_outputs(
    module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], outputs: dict[str, torch.Tensor]
) -> frozenset[str] | None:
    """Names of the outputs that double with the inputs, or None where items in a batch do not go their own ways."""
    import torch

    lengths = {len(tensor) if tensor.ndim else 0 for tensor in inputs}
    if len(lengths) != 1 or 0 in lengths:
        return None
    n_items = lengths.pop()
    other = tuple(vary(tensor, 1) for tensor in inputs)
    try:
        others = _run(module, other)
        both = _run(module, tuple(torch.cat(pair) for pair in zip(inputs, other, strict=True)))
    except Exception:  # a module with a fixed batch raises anything
        return None
    twice = frozenset(name for name, tensor in outputs.items() if tensor.ndim and len(tensor) == n_items)
    for name, tensor in outputs.items():
        expected = torch.cat([tensor, others[name]]) if name in twice else tensor
        if name not in both or not _close(both[name], expected):
            return None
    return twice


def _close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    import torch

    if found.shape != expected.shape:
        return False
    if not expected.is_floating_point():
        return bool(torch.equal(found, expected))
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    return bool(torch.allclose(found, expected, rtol=0, atol=_BATCH_TOLERANCE * scale, equal_nan=True))


def _spec(name: str, tensor: torch.Tensor, batched: bool) -> TensorSpec:
    shape = tuple(tensor.shape)
    dtype = str(tensor.dtype).removeprefix("torch.")
    return TensorSpec(name, dtype, (BATCH, *shape[1:]) if batched else shape)


def _brief(inputs: Mapping[str, torch.Tensor]) -> str:
    return ", ".join(str(_spec(name, tensor, False)) for name, tensor in inputs.items())
