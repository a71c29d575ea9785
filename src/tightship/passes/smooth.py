"""SmoothQuant: the largest channels behind a normalization made smaller, the weights that read them larger.

    x -> LayerNormalization g, b -> MatMul W        becomes        x -> LayerNormalization g / s, b / s -> MatMul s W

(arXiv 2211.10438). The few large channels of transformers then leave 8-bit steps for all others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tightship.core.dataset import Dataset
from tightship.core.model import Form, Model
from tightship.core.passes import DataNeed, Pass, PassResult
from tightship.core.progress import SILENT, Progress
from tightship.core.store import Store
from tightship.errors import UsageError
from tightship.passes.channels import Constant
from tightship.passes.editing import constant
from tightship.passes.equalize import Written, move_scales

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["Smooth", "normalized_channels"]

_NORMALIZATIONS = frozenset({"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"})


@dataclass(frozen=True)
class Smooth(Pass):
    """Move the scale of large channels behind a normalization into the weights; outputs stay the same.

    Each channel is divided by `max|x| ** alpha / max|w| ** (1 - alpha)` in the normalization's own weight (or in the
    constant that a decomposed one is multiplied by), and the products that read it make up for it (SmoothQuant, arXiv
    2211.10438). A negative `alpha` takes for each normalization the best of a few, by the noise of rounding to 8 bits
    computed from the channels' ranges and powers. Before `int8-static`.
    """

    name: ClassVar[str] = "smooth"
    form: ClassVar[Form] = "graph"
    data: ClassVar[DataNeed] = "calibration"
    lossless: ClassVar[bool] = True

    alpha: float = -1.0

    def __post_init__(self) -> None:
        if self.alpha > 1:
            raise UsageError(f"smooth: alpha must be 0 to 1, or negative to be searched, found {self.alpha}")

    def apply(
        self, model: Model, data: Dataset | None = None, progress: Progress = SILENT, store: Store | None = None
    ) -> PassResult:
        return move_scales(model, self.step, data, normalized_channels, self.alpha, progress)


def normalized_channels(node: onnx_ir.Node) -> Written | None:
    """The channels of a normalization over the last axis, or of a product with a constant per channel."""
    value = node.outputs[0]
    if value.shape is None or not len(value.shape):
        return None
    last = len(value.shape) - 1
    if node.op_type in _NORMALIZATIONS and node.attributes.get_int("axis", -1) in (-1, last):
        given = [index for index in (1, 2) if index < len(node.inputs) and node.inputs[index] is not None]
    elif node.op_type == "Mul" and node.domain == "":
        given = [index for index in (0, 1) if constant(node.inputs[index]) is not None]
    else:
        return None
    tensors = [constant(node.inputs[index]) for index in given]
    fits = [tensor is not None and tuple(tensor.shape) == (value.shape[last],) for tensor in tensors]
    return Written(value, last, tuple(Constant(node, index, 0) for index in given)) if given and all(fits) else None
