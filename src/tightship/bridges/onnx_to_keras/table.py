"""The two tables that the modules of `operators/` fill.

`OPERATORS` works on tensors (`values.Tensor`) and constants (numpy arrays). A keyword-only parameter `build` is no
attribute: it is given the `Build` of the node, which makes layers and weights. `SHAPES` works on `values.Numbers` and
constants: shape arithmetic stays at conversion time; an entry that cannot follow one returns `NotImplemented`, and the
numbers become a tensor.
"""

from __future__ import annotations

from tightship.core.operators import Operators

__all__ = ["INJECTED", "OPERATORS", "REASONS", "SHAPES"]

OPERATORS = Operators()
SHAPES = Operators()

INJECTED = ("build",)
"""Keyword-only parameters that the conversion fills; no attributes of ONNX."""

_COUNTS = "how many elements its result has depends on data, and Keras' shapes do not"

REASONS = {
    "NonZero": _COUNTS,
    "NonMaxSuppression": _COUNTS,
    "Unique": _COUNTS,
    "RandomNormal": "it is random",
    "RandomNormalLike": "it is random",
    "RandomUniform": "it is random",
    "RandomUniformLike": "it is random",
    "Multinomial": "it is random",
    "ImageDecoder": "it decodes image files, which keras.ops cannot",
    "StringNormalizer": "keras.ops has no strings",
    "StringConcat": "keras.ops has no strings",
    "StringSplit": "keras.ops has no strings",
    "RegexFullMatch": "keras.ops has no strings",
    "TfIdfVectorizer": "keras.ops has no counting of n-grams",
}
"""Why an operator is not in the table, where the reason is known."""
