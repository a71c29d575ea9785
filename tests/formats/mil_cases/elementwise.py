"""Elementwise operators, activations, reductions and matrix products."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch.nn.functional as F
from coremltools.converters.mil import Builder as mb

from tests.formats.mil_running import add, by_torch, numbers, whole

X = numbers(2, 3, 4, 5)
POSITIVE = numbers(2, 3, 4, low=0.1, high=3)
INSIDE = numbers(2, 3, 4, low=-0.9, high=0.9)


def unary() -> Iterator[tuple[str, np.ndarray]]:
    for kind in ("abs", "atan", "ceil", "cos", "cosh", "erf", "exp", "exp2", "floor", "sign", "sin", "sinh", "square"):
        yield kind, X
    yield from (("acos", INSIDE), ("asin", INSIDE), ("atanh", INSIDE), ("tan", INSIDE), ("tanh", X))
    yield from (("sqrt", POSITIVE), ("round", np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.4], np.float32)))
    yield from (("relu", X), ("sigmoid", X), ("softplus", 10 * X), ("softsign", X), ("relu6", 5 * X))


for kind, x in unary():
    add(kind, lambda x, kind=kind: getattr(mb, kind)(x=x), x=x)
for kind in ("abs", "sign", "square"):
    add(kind, lambda x, kind=kind: getattr(mb, kind)(x=x), x=whole(3, 4), name="int32")
add("silu", lambda x: mb.silu(x=x), by_torch(F.silu), x=X)
add("logical_not", lambda x: mb.logical_not(x=mb.greater(x=x, y=0.0)), x=X)
for kind in ("inverse", "log", "rsqrt"):
    add(kind, lambda x, kind=kind: getattr(mb, kind)(x=x), x=POSITIVE)
    add(kind, lambda x, kind=kind: getattr(mb, kind)(x=x, epsilon=0.1), x=POSITIVE, name="epsilon")

ZEROS = np.array([0.0, 1.0], np.float32)
add("log", lambda x: mb.log(x=x), x=ZEROS, name="of zero")

for kind in ("add", "sub", "mul", "real_div", "maximum", "minimum", "floor_div", "mod"):
    function = lambda x, y, kind=kind: getattr(mb, kind)(x=x, y=y)  # noqa: E731
    add(kind, function, x=X, y=numbers(4, 5, low=0.5), rtol=2e-5, atol=1e-5)
    if kind != "real_div":
        add(kind, function, x=whole(3, 4), y=np.array([[-3], [2], [5]], np.int32), name="int32")
add("pow", lambda x, y: mb.pow(x=x, y=y), x=POSITIVE, y=numbers(4))
for kind in ("equal", "not_equal", "greater", "greater_equal", "less", "less_equal"):
    add(kind, lambda x, y, kind=kind: getattr(mb, kind)(x=x, y=y), x=whole(6, 6, high=-5), y=whole(6, 6, high=-5))
    add(kind, lambda x, y, kind=kind: getattr(mb, kind)(x=x, y=y), x=X, y=X.copy() * (X > 0), name="float")
for kind in ("logical_and", "logical_or", "logical_xor"):
    add(
        kind,
        lambda x, y, kind=kind: getattr(mb, kind)(x=mb.greater(x=x, y=0.0), y=mb.greater(x=y, y=0.0)),
        x=numbers(8, 8),
        y=numbers(8, 8),
    )
add("clip", lambda x: mb.clip(x=x, alpha=-0.5, beta=1.0), x=X)
add("threshold", lambda x: mb.threshold(x=x, alpha=0.5), x=X)
add("threshold", lambda x: mb.threshold(x=x, alpha=2), x=whole(3, 4), name="int32")
add("cast", lambda x: mb.cast(x=x, dtype="int32"), x=X)
add("cast", lambda x: mb.cast(x=x, dtype="bool"), x=whole(3, 4, low=-1, high=2), name="bool")
add("cast", lambda x: mb.cast(x=mb.cast(x=x, dtype="fp16"), dtype="int32"), x=whole(3, 4), name="half")
add("cast", lambda x: mb.cast(x=mb.cast(x=x, dtype="uint8"), dtype="int32"), x=whole(3, 4, low=0), name="u8", opset=17)
add("select", lambda x, y: mb.select(cond=mb.greater(x=x, y=y), a=x, b=y), x=X, y=numbers(5))
add("identity", lambda x: mb.identity(x=x), x=X)

add("clamped_relu", lambda x: mb.clamped_relu(x=x, alpha=2.0, beta=1.0), x=X)
add("clamped_relu", lambda x: mb.clamped_relu(x=x, alpha=-2.0, beta=1.5), x=X, name="negative slope")
add("elu", lambda x: mb.elu(x=x, alpha=0.7), x=X)
add("leaky_relu", lambda x: mb.leaky_relu(x=x, alpha=0.1), x=X)
add("prelu", lambda x: mb.prelu(x=x, alpha=np.array([0.1, 0.2, -0.3], np.float32)), x=X)
for mode in ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"):
    add("gelu", lambda x, mode=mode: mb.gelu(x=x, mode=mode), x=X, name=mode)
add("linear_activation", lambda x: mb.linear_activation(x=x, alpha=2.0, beta=-1.0), x=X)
add("scaled_tanh", lambda x: mb.scaled_tanh(x=x, alpha=1.7, beta=0.6), x=X)
add("sigmoid_hard", lambda x: mb.sigmoid_hard(x=x, alpha=0.3, beta=0.4), x=X)
STEP = np.array([-1, 0.5, 0.49, 2], np.float32)
add(
    "thresholded_relu",
    lambda x: mb.thresholded_relu(x=x, alpha=0.5),
    lambda x: np.where(x >= 0.5, x, 0),
    x=STEP,
)
add(
    "softplus_parametric",
    lambda x: mb.softplus_parametric(
        x=x, alpha=np.array([1, 2, 3], np.float32), beta=np.array([0.5, 1, -1], np.float32)
    ),
    x=X,
)
for axis in (-1, 1):
    add("softmax", lambda x, axis=axis: mb.softmax(x=x, axis=axis), x=X, name=str(axis))

for kind in ("l1_norm", "l2_norm", "log_sum", "log_sum_exp", "max", "mean", "min", "prod", "sum", "sum_square"):
    reduce = lambda x, kind=kind, **more: getattr(mb, f"reduce_{kind}")(x=x, **more)  # noqa: E731
    add(f"reduce_{kind}", lambda x, reduce=reduce: reduce(x, axes=[1, -1], keep_dims=True), x=POSITIVE)
    add(f"reduce_{kind}", lambda x, reduce=reduce: reduce(x, axes=[0]), x=POSITIVE, name="dropped")
    if kind not in ("log_sum", "log_sum_exp", "l2_norm"):
        add(f"reduce_{kind}", lambda x, reduce=reduce: reduce(x, axes=[1]), x=whole(3, 4), name="int32")
add("reduce_sum", lambda x: mb.reshape(x=mb.reduce_sum(x=x), shape=[1]), x=POSITIVE, name="all axes")
for kind in ("reduce_argmax", "reduce_argmin"):
    add(kind, lambda x, kind=kind: getattr(mb, kind)(x=x, axis=1), x=X)
    add(kind, lambda x, kind=kind: getattr(mb, kind)(x=x, axis=-1, keep_dims=True), x=X, name="kept")
    add(
        kind,
        lambda x, kind=kind: mb.cast(x=getattr(mb, kind)(x=x, axis=1, output_dtype="uint16"), dtype="int32"),
        x=X,
        name="uint16",
        opset=17,
    )

W = numbers(6, 5)
add("linear", lambda x: mb.linear(x=x, weight=W, bias=W[:, 0]), x=numbers(3, 5), rtol=2e-5, atol=1e-5)
add("linear", lambda x: mb.linear(x=x, weight=W, bias=W[:, 0]), x=numbers(2, 3, 5), name="3d", atol=1e-5)
add("linear", lambda x: mb.linear(x=x, weight=W), x=numbers(5), name="vector", atol=1e-5)
INT_W = whole(6, 5)
add("linear", lambda x: mb.linear(x=x, weight=INT_W), x=whole(3, 5), name="int32")
HALF_W = W.astype(np.float16)
add(
    "linear",
    lambda x: mb.linear(x=x, weight=HALF_W, bias=HALF_W[:, 0]),
    lambda x: x @ HALF_W.T.astype(np.float32) + HALF_W[:, 0],
    x=numbers(3, 5),
    name="half weights",
    opset=17,
    atol=1e-5,
)
add("matmul", lambda x, y: mb.matmul(x=x, y=y), x=numbers(2, 1, 3, 4), y=numbers(5, 4, 2), atol=1e-5)
add(
    "matmul",
    lambda x, y: mb.matmul(x=x, y=y, transpose_x=True, transpose_y=True),
    x=numbers(2, 4, 3),
    y=numbers(2, 5, 4),
    name="turned",
    atol=1e-5,
)
add("matmul", lambda x: mb.matmul(x=x, y=W, transpose_y=True), x=numbers(3, 5), name="constant", atol=1e-5)
add("matmul", lambda x, y: mb.matmul(x=x, y=y), x=numbers(4), y=numbers(2, 4, 3), name="vector", atol=1e-5)
add("matmul", lambda x, y: mb.matmul(x=x, y=y), x=whole(3, 4), y=whole(4, 2), name="int32")
EINSUM = {"x": numbers(2, 3, 4, 5), "y": numbers(2, 5, 4, 6)}
add("einsum", lambda x, y: mb.einsum(values=(x, y), equation="nchw,nwhu->nchu"), **EINSUM, atol=1e-5)
add(
    "einsum",
    lambda x, y: mb.einsum(values=(x, y), equation="chw,whr->chr"),
    x=numbers(3, 4, 5),
    y=numbers(5, 4, 2),
    name="3d",
    atol=1e-5,
)
QKV = {"q": numbers(2, 3, 4, 8), "k": numbers(2, 3, 6, 8), "v": numbers(2, 3, 6, 5)}
add(
    "scaled_dot_product_attention",
    lambda q, k, v: mb.scaled_dot_product_attention(query=q, key=k, value=v),
    by_torch(F.scaled_dot_product_attention),
    **QKV,
    opset=18,
)
add(
    "scaled_dot_product_attention",
    lambda q, k, v, m: mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=m),
    by_torch(F.scaled_dot_product_attention),
    **QKV,
    m=numbers(4, 6),
    opset=18,
    name="mask",
)
add(
    "scaled_dot_product_attention",
    lambda q, k, v, m: mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=mb.greater(x=m, y=-1.0)),
    by_torch(lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m > -1)),
    **QKV,
    m=numbers(4, 6),
    opset=18,
    name="boolean mask",
)
