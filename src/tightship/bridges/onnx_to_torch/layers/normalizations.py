"""Normalizations with constant scales and statistics."""

from __future__ import annotations

from typing import Any

from torch import nn

from tightship.bridges.onnx_to_torch.layers.layer import Call, Layer, layer

_BATCH_NORMS: dict[int, Any] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_INSTANCE_NORMS: dict[int, Any] = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}


@layer("BatchNormalization")
def batch_normalization(call: Call) -> Layer | None:
    """In train mode the statistics of the batch count, and the running ones follow with ONNX's momentum."""
    tensors = [call.constant(index) for index in (1, 2, 3, 4)]
    rank, attributes = _rank(call), call.attributes
    if any(tensor is None for tensor in tensors) or rank not in _BATCH_NORMS or not call.weights(1, 2, 3, 4):
        return None
    if attributes.get("training_mode") or not attributes.get("spatial", 1) or len(_used(call)) > 1:
        return None
    mean, var = tensors[2], tensors[3]
    assert mean is not None and var is not None
    module = _BATCH_NORMS[rank](mean.numel(), attributes["epsilon"], 1 - attributes["momentum"])
    module.weight, module.bias = call.parameter(1), call.parameter(2)
    module.running_mean, module.running_var = mean.detach().clone(), var.detach().clone()
    return Layer(module)


@layer("LayerNormalization")
def layer_normalization(call: Call) -> Layer | None:
    scale, bias = call.constant(1), call.constant(2)
    rank, axis = _rank(call), call.attributes["axis"]
    if scale is None or not call.weights(1, 2) or (call.has(2) and bias is None) or len(_used(call)) > 1:
        return None
    if not rank or scale.ndim != (-axis if axis < 0 else rank - axis):
        return None
    if bias is not None and bias.shape != scale.shape:
        return None
    if _shape_differs(call, tuple(scale.shape)):
        return None
    module = nn.LayerNorm(tuple(scale.shape), call.attributes["epsilon"], bias=bias is not None)
    module.weight = call.parameter(1)
    if bias is not None:
        module.bias = call.parameter(2)
    return Layer(module)


@layer("GroupNormalization")
def group_normalization(call: Call) -> Layer | None:
    scale = call.constant(1)
    if scale is None or call.constant(2) is None or not call.weights(1, 2) or call.opset < 21:
        return None
    module = nn.GroupNorm(call.attributes["num_groups"], scale.numel(), call.attributes["epsilon"])
    module.weight, module.bias = call.parameter(1), call.parameter(2)
    return Layer(module)


@layer("InstanceNormalization")
def instance_normalization(call: Call) -> Layer | None:
    scale, rank = call.constant(1), _rank(call)
    if scale is None or call.constant(2) is None or not call.weights(1, 2) or rank not in _INSTANCE_NORMS:
        return None
    module = _INSTANCE_NORMS[rank](scale.numel(), call.attributes["epsilon"], affine=True)
    module.weight, module.bias = call.parameter(1), call.parameter(2)
    return Layer(module)


def _rank(call: Call) -> int:
    """Rank of the input, 0 where it is not known."""
    x = call.node.inputs[0]
    return 0 if x is None or x.shape is None else len(x.shape)


def _used(call: Call) -> list[str]:
    return [value.name or "" for value in call.node.outputs if value.uses() or value.is_graph_output()]


def _shape_differs(call: Call, shape: tuple[int, ...]) -> bool:
    """Whether the normalized axes are known to be others than those of the scale, which is then broadcast."""
    x = call.node.inputs[0]
    assert x is not None and x.shape is not None
    last = list(x.shape)[-len(shape) :]
    return any(not isinstance(dim, int) or dim != n for dim, n in zip(last, shape, strict=True))
