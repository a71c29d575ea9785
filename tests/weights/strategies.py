"""Weights drawn at random for property tests: every element type, shape and name that a container has to carry."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st

from tightship.weights import Tensor, TensorType, Weights
from tightship.weights.dtypes import DTYPES, STRING
from tightship.weights.tensors import join_strings

SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)
NAMES = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["", ".", "..", "/", "a", "a/b", "a//b", "../x", "/etc/x", "__0__", "__tightship__", "C:x", "é\0\n"]
    ),
)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Bytes at random: NaN payloads, infinities and negative zeros among them."""
    dtype, shape = draw(st.sampled_from(list(DTYPES))), draw(SHAPES)
    n_elements = math.prod(shape)
    if dtype == STRING:
        texts = draw(st.lists(st.binary(max_size=9), min_size=n_elements, max_size=n_elements))
        return join_strings(texts, shape)
    n_bytes = -(-n_elements * DTYPES[dtype].bits // 8)
    data = draw(st.binary(min_size=n_bytes, max_size=n_bytes))
    return Tensor(TensorType.of(dtype, shape), bytes(byte & 1 for byte in data) if dtype == "bool" else data)


WEIGHTS = st.dictionaries(NAMES, tensors(), min_size=1, max_size=6).map(Weights.of)


def one_of_each(seed: int = 0) -> Weights:
    """A tensor of each element type and of each kind of shape: none, empty, odd in length, several axes."""
    rng = np.random.default_rng(seed)
    found: dict[str, Tensor] = {}
    for dtype in DTYPES:
        for shape in ((), (0,), (7,), (3, 5), (2, 0, 3)):
            n_elements = math.prod(shape)
            if dtype == STRING:
                found[f"{dtype}.{shape}"] = join_strings([rng.bytes(index % 5) for index in range(n_elements)], shape)
                continue
            data = rng.bytes(-(-n_elements * DTYPES[dtype].bits // 8))
            data = bytes(byte & 1 for byte in data) if dtype == "bool" else data
            found[f"{dtype}.{shape}"] = Tensor(TensorType.of(dtype, shape), data)
    return Weights.of(found)
