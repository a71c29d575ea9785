"""Each layer type of Core ML's neural networks, built by coremltools' builder, against numpy and torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from coremltools.models.neural_network import NeuralNetworkBuilder
from scipy.special import erf, logsumexp

from tests.formats.neural_network_cases import Feeds, assert_close, build, normal, rng, run
from tightship.formats.neural_network import layers
from tightship.formats.neural_network.activation import ACTIVATIONS

Add = Callable[[NeuralNetworkBuilder], object]


@dataclass(frozen=True)
class Case:
    title: str
    feeds: Feeds
    add: Add
    expected: Any
    old: bool = False
    tolerance: float = 1e-5

    def spec(self) -> Any:
        shapes = {name: array.shape for name, array in self.feeds.items()}
        return build(shapes, self.add, len(self.results), self.old)

    @property
    def results(self) -> list[np.ndarray]:
        return list(self.expected) if isinstance(self.expected, (list, tuple)) else [self.expected]


X3 = normal(4, 6, 7)  # [C, H, W] of an older spec
X4 = normal(2, 4, 6, 7, seed=1)
T4 = torch.tensor(X4)
V = normal(4, seed=2)
ONE = ("x", "y")
TWO = (["x", "z"], "y")


def one(kind: str, expected: Callable[..., Any], x: np.ndarray = X4, old: bool = False, **options: Any) -> Case:
    """A layer of one input, whose builder method is add_<kind>(name, input, output, ..)."""
    names = {"name": "l", "input_name": "x", "output_name": "y"}
    title = "-".join([kind, *(str(value) for value in options.values() if isinstance(value, (str, bool)))])
    return Case(title, {"x": x}, lambda b: getattr(b, f"add_{kind}")(**names, **options), expected(x), old)


def two(kind: str, expected: Any, x: np.ndarray, z: np.ndarray, **options: Any) -> Case:
    """A layer of two inputs."""
    title = "-".join([kind, *(str(value) for value in options.values())])
    return Case(title, {"x": x, "z": z}, lambda b: getattr(b, f"add_{kind}")("l", *TWO, **options), expected)


def conv(title: str, expected: Any, weight: np.ndarray, **options: Any) -> Case:
    """A convolution of T4; torch's weights [a, b, h, w] are given to the builder as it wants them, [h, w, b, a]."""
    deconvolution = options.get("is_deconv", False)
    groups = options.pop("groups", 1)
    order = (2, 3, 0, 1) if deconvolution else (2, 3, 1, 0)
    channels = weight.shape[1] * groups if deconvolution else weight.shape[0]
    kernel_channels = weight.shape[0] if deconvolution else weight.shape[1]
    given = {"stride_height": 1, "stride_width": 1, "border_mode": "valid", "b": None, "has_bias": False, **options}

    def add(b: NeuralNetworkBuilder) -> None:
        b.add_convolution(
            "l",
            kernel_channels,
            channels,
            *weight.shape[2:],
            groups=groups,
            W=weight.transpose(order),
            input_name="x",
            output_name="y",
            **given,
        )

    return Case(f"convolution-{title}", {"x": X4}, add, expected.numpy())


W = torch.tensor(normal(5, 4, 3, 2, seed=3))
GROUPED = torch.tensor(normal(6, 2, 3, 3, seed=4))
UP = torch.tensor(normal(4, 3, 3, 3, seed=5))
B5 = normal(5, seed=6)

CONVOLUTIONS = [
    conv("bias", F.conv2d(T4, W, torch.tensor(B5)), W.numpy(), b=B5, has_bias=True),
    conv(
        "groups-dilated",
        F.conv2d(T4, GROUPED, dilation=2, groups=2),
        GROUPED.numpy(),
        groups=2,
        dilation_factors=[2, 2],
    ),
    conv(
        "custom-padding",
        F.conv2d(F.pad(T4, (0, 2, 1, 3)), W, stride=2),
        W.numpy(),
        stride_height=2,
        stride_width=2,
        padding_top=1,
        padding_bottom=3,
        padding_left=0,
        padding_right=2,
    ),
    conv("same", F.conv2d(F.pad(T4, (0, 1, 1, 1)), W), W.numpy(), border_mode="same"),
    conv(
        "same-first-heavy",
        F.conv2d(F.pad(T4, (1, 0, 1, 1)), W),
        W.numpy(),
        border_mode="same",
        same_padding_asymmetry_mode="TOP_LEFT_HEAVY",
    ),
    conv(
        "transposed", F.conv_transpose2d(T4, UP, stride=2), UP.numpy(), is_deconv=True, stride_height=2, stride_width=2
    ),
    conv(
        "transposed-output-padding",
        F.conv_transpose2d(T4, UP, stride=2, padding=1, output_padding=1),
        UP.numpy(),
        is_deconv=True,
        stride_height=2,
        stride_width=2,
        padding_top=1,
        padding_bottom=1,
        padding_left=1,
        padding_right=1,
        output_shape=(12, 14),
    ),
    conv(
        "transposed-same",
        F.conv_transpose2d(T4, UP, stride=2)[..., :-1, :-1],
        UP.numpy(),
        is_deconv=True,
        stride_height=2,
        stride_width=2,
        border_mode="same",
    ),
    conv("transposed-groups", F.conv_transpose2d(T4, UP[:, :2], groups=2), UP[:, :2].numpy(), is_deconv=True, groups=2),
]


def pool(kind: str, expected: torch.Tensor, **options: Any) -> Case:
    given = {"height": 3, "width": 2, "stride_height": 2, "stride_width": 2, "padding_type": "VALID", **options}
    title = "-".join(["pooling", kind, *(f"{value}" for value in options.values())])
    return Case(
        title,
        {"x": X4},
        lambda b: b.add_pooling("l", layer_type=kind, input_name="x", output_name="y", **given),
        expected.numpy(),
    )


PADDED = {"padding_top": 1, "padding_bottom": 1, "padding_left": 1, "padding_right": 1}
K, S = (3, 2), (2, 2)
POOLINGS = [
    pool("MAX", F.max_pool2d(T4, K, S)),
    pool("L2", F.lp_pool2d(T4.abs(), 2.0, K, S)),
    pool("MAX", F.max_pool2d(T4, K, S, padding=1), **PADDED),
    pool("AVERAGE", F.avg_pool2d(T4, K, S, padding=1, count_include_pad=False), exclude_pad_area=True, **PADDED),
    pool("AVERAGE", F.avg_pool2d(T4, K, S, padding=1), exclude_pad_area=False, **PADDED),
    pool("MAX", F.max_pool2d(F.pad(T4, (0, 1, 0, 1), value=-1e9), K, S), padding_type="SAME"),
    pool("MAX", F.max_pool2d(T4, K, S, ceil_mode=True), padding_type="INCLUDE_LAST_PIXEL"),
    pool("MAX", F.max_pool2d(T4, K, S, 1, ceil_mode=True), padding_type="INCLUDE_LAST_PIXEL", **PADDED),
    pool(
        "AVERAGE",
        F.avg_pool2d(T4, K, S, 1, ceil_mode=True, count_include_pad=False),
        exclude_pad_area=True,
        padding_type="INCLUDE_LAST_PIXEL",
        **PADDED,
    ),
    pool(
        "AVERAGE",
        F.avg_pool2d(T4, K, S, 1, ceil_mode=True, count_include_pad=True),
        exclude_pad_area=False,
        padding_type="INCLUDE_LAST_PIXEL",
        **PADDED,
    ),
    pool("AVERAGE", T4.mean((2, 3), keepdim=True), is_global=True),
    pool("MAX", T4.amax((2, 3), keepdim=True), is_global=True),
    pool("L2", T4.square().sum((2, 3), keepdim=True).sqrt(), is_global=True),
]

X5 = normal(1, 4, 5, 6, 7, seed=7)
T5 = torch.tensor(X5)
W5 = torch.tensor(normal(6, 2, 3, 3, 2, seed=8))
U5 = torch.tensor(normal(4, 3, 2, 2, 2, seed=9))
VOLUMES = [
    Case(
        "convolution3d",
        {"x": X5},
        lambda b: b.add_convolution3d(
            "l",
            4,
            6,
            3,
            3,
            2,
            W5.numpy(),
            B5[:1].repeat(6),
            True,
            groups=2,
            stride_depth=2,
            padding_mode="same",
            input_name="x",
            output_name="y",
        ),
        F.conv3d(F.pad(T5, (0, 1, 1, 1, 1, 1)), W5, torch.tensor(B5[:1].repeat(6)), (2, 1, 1), groups=2).numpy(),
    ),
    Case(
        "convolution3d-transposed",
        {"x": X5},
        lambda b: b.add_convolution3d(
            "l",
            4,
            3,
            2,
            2,
            2,
            U5.numpy().transpose(1, 0, 2, 3, 4),
            None,
            False,
            stride_depth=2,
            stride_height=2,
            stride_width=2,
            is_deconv=True,
            input_name="x",
            output_name="y",
        ),
        F.conv_transpose3d(T5, U5, stride=2).numpy(),
    ),
    Case(
        "pooling3d",
        {"x": X5},
        lambda b: b.add_pooling3d("l", *ONE, "AVERAGE", 3, 2, 2, 2, 2, 2),
        F.avg_pool3d(T5, (3, 2, 2), 2).numpy(),
    ),
    Case(
        "globalPooling3d",
        {"x": X5},
        lambda b: b.add_global_pooling3d("l", *ONE, "MAX"),
        T5.amax((2, 3, 4), True).numpy(),
    ),
]


def dense(x: np.ndarray, expected: Callable[[np.ndarray], np.ndarray]) -> Case:
    weight = normal(5, 12, seed=10)
    add: Add = lambda b: b.add_inner_product("l", weight, B5, 12, 5, True, *ONE)  # noqa: E731
    return Case(f"innerProduct-rank-{x.ndim}", {"x": x}, add, expected(weight))


D = {
    rank: normal(*shape, seed=11)
    for rank, shape in {1: (12,), 3: (2, 3, 12), 4: (2, 3, 2, 2), 5: (2, 1, 3, 2, 2)}.items()
}
TABLE = normal(9, 5, seed=12)
TOKENS = np.array([[3], [0], [8]], np.float32)
PRODUCTS = [
    dense(D[1], lambda w: D[1] @ w.T + B5),
    dense(D[3], lambda w: D[3] @ w.T + B5),
    dense(D[4], lambda w: (D[4].reshape(2, 12) @ w.T + B5).reshape(2, 5, 1, 1)),
    dense(D[5], lambda w: (D[5].reshape(2, 1, 12) @ w.T + B5).reshape(2, 1, 5, 1, 1)),
    two(
        "batched_mat_mul",
        X4.swapaxes(2, 3) @ normal(4, 5, 6).swapaxes(1, 2),
        X4,
        normal(4, 5, 6),
        transpose_a=True,
        transpose_b=True,
    ),
    two("batched_mat_mul", (X4[0, 0] @ normal(7))[:, None], X4[0, 0], normal(7)),
    Case(
        "batchedMatmul-weights",
        {"x": X4},
        lambda b: b.add_batched_mat_mul(
            "l", ["x"], "y", weight_matrix_rows=7, weight_matrix_columns=5, W=normal(7, 5), bias=B5
        ),
        X4 @ normal(7, 5) + B5,
    ),
    Case(
        "embeddingND", {"x": TOKENS}, lambda b: b.add_embedding_nd("l", *ONE, 9, 5, TABLE.T, B5), TABLE[[3, 0, 8]] + B5
    ),
    Case(
        "embedding",
        {"x": TOKENS[:, :, None, None]},
        lambda b: b.add_embedding("l", TABLE.T, B5, 9, 5, True, *ONE),
        (TABLE[[3, 0, 8]] + B5)[:, :, None, None],
    ),
]


def batchnorm(title: str, expected: np.ndarray, x: np.ndarray = X4, old: bool = False, **options: Any) -> Case:
    gamma, beta = V, V * 2
    add: Add = lambda b: b.add_batchnorm("l", 4, gamma, beta, input_name="x", output_name="y", **options)  # noqa: E731
    return Case(f"batchnorm-{title}", {"x": x}, add, expected, old, tolerance=2e-5)


TV = torch.tensor(V)
MOMENTS = {"mean": V / 2, "variance": V**2 + 0.5, "epsilon": 1e-3}
T_MOMENTS = (TV / 2, TV**2 + 0.5, TV, TV * 2, False, 0.0, 1e-3)
OWN = {"compute_mean_var": True, "instance_normalization": True}


def own_moments(b: NeuralNetworkBuilder) -> None:
    """Moments of the whole batch: the format has them, the builder does not."""
    b.add_batchnorm("l", 4, V, V * 2, input_name="x", output_name="y", **OWN)
    b.nn_spec.layers[-1].batchnorm.instanceNormalization = False


NORMALIZATIONS = [
    batchnorm("rank-4", F.batch_norm(T4, *T_MOMENTS).numpy(), **MOMENTS),
    batchnorm("older", F.batch_norm(torch.tensor(X3[None]), *T_MOMENTS).numpy()[0], X3, True, **MOMENTS),
    batchnorm("rank-3", F.batch_norm(torch.tensor(X3[None]), *T_MOMENTS).numpy()[0], X3, **MOMENTS),
    batchnorm("rank-5", F.batch_norm(T4, *T_MOMENTS).numpy()[None], X4[None], **MOMENTS),
    batchnorm("instance", F.instance_norm(T4, weight=TV, bias=TV * 2).numpy(), **OWN),
    Case("batchnorm-own-moments", {"x": X4}, own_moments, F.batch_norm(T4, None, None, TV, TV * 2, True).numpy()),
    one("mvn", lambda x: F.layer_norm(T4, X4.shape[1:], eps=1e-5).numpy(), across_channels=True),
    one("mvn", lambda x: F.instance_norm(T4).numpy(), across_channels=False),
    one("mvn", lambda x: x - x.mean((1, 2, 3), keepdims=True), normalize_variance=False),
    one("l2_normalize", lambda x: x / np.sqrt((x**2).sum((1, 2, 3), keepdims=True) + 1e-3), epsilon=1e-3),
    one("softmax", lambda x: torch.softmax(T4, 1).numpy()),
    one("softmax", lambda x: torch.softmax(torch.tensor(x), 0).numpy(), X3, True),
    one("softmax_nd", lambda x: torch.softmax(T4, -1).numpy(), axis=-1),
    one("lrn", lambda x: F.local_response_norm(T4, 3, 0.3, 0.7, 2.0).numpy(), alpha=0.3, beta=0.7, local_size=3, k=2.0),
    one(
        "layer_normalization",
        lambda x: F.layer_norm(T4, (6, 7), torch.tensor(X3[0]), torch.tensor(X3[1])).numpy(),
        normalized_shape=(6, 7),
        gamma=X3[0],
        beta=X3[1],
    ),
]


def activation(kind: str, expected: Callable[[np.ndarray], Any], params: Any = None) -> Case:
    add: Add = lambda b: b.add_activation("l", kind, *ONE, params)  # noqa: E731
    return Case(f"activation-{kind}", {"x": X4}, add, expected(X4))


VC = V.reshape(4, 1, 1)
ACTIVE = [
    activation("LINEAR", lambda x: 2 * x + 0.5, [2, 0.5]),
    activation("RELU", lambda x: np.maximum(x, 0)),
    activation("LEAKYRELU", lambda x: np.where(x > 0, x, 0.1 * x), [0.1]),
    activation("THRESHOLDEDRELU", lambda x: np.where(x >= 0.4, x, 0), 0.4),
    activation("PRELU", lambda x: np.where(x > 0, x, VC * x), V),
    activation("TANH", np.tanh),
    activation("SCALED_TANH", lambda x: 1.5 * np.tanh(0.7 * x), [1.5, 0.7]),
    activation("SIGMOID", lambda x: 1 / (1 + np.exp(-x))),
    activation("SIGMOID_HARD", lambda x: np.clip(0.2 * x + 0.4, 0, 1), [0.2, 0.4]),
    activation("ELU", lambda x: np.where(x > 0, x, 0.7 * np.expm1(x)), 0.7),
    activation("SOFTSIGN", lambda x: x / (1 + np.abs(x))),
    activation("SOFTPLUS", lambda x: np.log1p(np.exp(x))),
    activation("PARAMETRICSOFTPLUS", lambda x: VC * np.log1p(np.exp(2 * VC * x)), [V, 2 * V]),
    one("clamped_relu", lambda x: np.minimum(np.where(x > 0, x, 0.3 * x), 0.8), alpha=0.3, beta=0.8),
    one("gelu", lambda x: 0.5 * x * (1 + erf(x / np.sqrt(2)))),
    one("gelu", lambda x: F.gelu(T4, approximate="tanh").numpy(), mode="TANH_APPROXIMATION"),
    one("gelu", lambda x: x / (1 + np.exp(-1.702 * x)), mode="SIGMOID_APPROXIMATION"),
]

POSITIVE = np.abs(X4) + 0.5
SMALL = np.tanh(X4)


def unary(mode: str, expected: np.ndarray, x: np.ndarray = POSITIVE, **options: Any) -> Case:
    return Case(f"unary-{mode}", {"x": x}, lambda b: b.add_unary("l", *ONE, mode, **options), expected)


def elementwise(mode: str, expected: np.ndarray, *values: np.ndarray, alpha: float | None = None) -> Case:
    feeds = dict(zip(("x", "z", "w"), values, strict=False))
    return Case(
        f"{mode}-{len(values)}", feeds, lambda b: b.add_elementwise("l", list(feeds), "y", mode, alpha), expected
    )


Y4, Z4 = normal(2, 4, 6, 7, seed=20), normal(2, 4, 1, 1, seed=21)
FLAGS = (rng(3).random((2, 4, 6, 7)) > 0.5).astype(np.float32)
MORE_FLAGS = (rng(4).random((4, 6, 7)) > 0.5).astype(np.float32)
INTEGERS = rng(5).integers(-5, 6, (2, 4, 6, 7)).astype(np.float32)
DIVISORS = np.where(rng(6).random((2, 4, 6, 7)) > 0.5, 3, -3).astype(np.float32)
COSINE = (Z4 * Z4[::-1]).sum(1, keepdims=True) / np.linalg.norm(Z4, axis=1, keepdims=True)
ELEMENTS = [
    unary("sqrt", np.sqrt(POSITIVE)),
    unary("rsqrt", 1 / np.sqrt(POSITIVE + 0.01), epsilon=0.01),
    unary("inverse", 1 / (POSITIVE + 0.01), epsilon=0.01),
    unary("power", POSITIVE**1.5, alpha=1.5),
    unary("exp", np.exp(0.5 * X4 + 0.2), X4, scale=0.5, shift=0.2),
    unary("log", np.log(POSITIVE)),
    unary("abs", np.abs(X4), X4),
    unary("threshold", np.maximum(X4, 0.3), X4, alpha=0.3),
    *(one(kind, getattr(np, kind)) for kind in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "ceil", "floor", "sign")),
    *(one(kind, getattr(np, "arc" + kind[1:]), SMALL) for kind in ("asin", "acos", "atanh")),
    *(one(kind, getattr(np, "arc" + kind[1:]), POSITIVE + 0.6) for kind in ("acosh", "asinh", "atan")),
    one("round", np.round),
    one("exp2", np.exp2),
    one("erf", erf),
    one("clip", lambda x: np.clip(x, -0.5, 0.8), min_value=-0.5, max_value=0.8),
    elementwise("ADD", X4 + Y4 + Z4, X4, Y4, Z4),
    elementwise("ADD", X4 + 1.5, X4, alpha=1.5),
    elementwise("MULTIPLY", X4 * Z4, X4, Z4),
    elementwise("MULTIPLY", X4 * 1.5, X4, alpha=1.5),
    elementwise("AVE", (X4 + Y4) / 2, X4, Y4),
    elementwise("MAX", np.maximum(X4, Y4), X4, Y4),
    elementwise("MIN", np.minimum(X4, Y4), X4, Y4),
    elementwise("DOT", (Z4 * Z4[::-1]).sum(1, keepdims=True), Z4, Z4[::-1]),
    elementwise("COS", COSINE / np.linalg.norm(Z4[::-1], axis=1, keepdims=True), Z4, Z4[::-1]),
    elementwise("CONCAT", np.concatenate([X4, Y4], 1), X4, Y4),
    Case(
        "scale",
        {"x": X4},
        lambda b: b.add_scale("l", V, X3, True, *ONE, shape_scale=[4], shape_bias=[4, 6, 7]),
        X4 * VC + X3,
    ),
    Case("bias", {"x": X4}, lambda b: b.add_bias("l", V, *ONE, shape_bias=[4]), X4 + VC),
    Case("bias-plane", {"x": X4}, lambda b: b.add_bias("l", X3[:1], *ONE, shape_bias=[1, 6, 7]), X4 + X3[:1]),
    two("equal", INTEGERS == FLAGS, INTEGERS, FLAGS),
    Case("equal-alpha", {"x": INTEGERS}, lambda b: b.add_equal("l", "x", "y", alpha=2.0), INTEGERS == 2),
    two("not_equal", INTEGERS != FLAGS, INTEGERS, FLAGS),
    two("less_than", X4 < Y4, X4, Y4),
    two("less_than", INTEGERS <= FLAGS, INTEGERS, FLAGS, use_less_than_equal=True),
    two("greater_than", X4 > Y4, X4, Y4),
    two("greater_than", INTEGERS >= FLAGS, INTEGERS, FLAGS, use_greater_than_equal=True),
    two("logical", np.logical_or(FLAGS, MORE_FLAGS), FLAGS, MORE_FLAGS, mode="OR"),
    two("logical", np.logical_xor(FLAGS, MORE_FLAGS), FLAGS, MORE_FLAGS, mode="XOR"),
    two("logical", np.logical_and(FLAGS, MORE_FLAGS), FLAGS, MORE_FLAGS, mode="AND"),
    Case("logicalNot", {"x": INTEGERS}, lambda b: b.add_logical("l", ["x"], "y", "NOT"), np.logical_not(INTEGERS)),
    two("add_broadcastable", X4 + X3[:, :1], X4, X3[:, :1]),
    two("subtract_broadcastable", X4 - X3[0], X4, X3[0]),
    two("multiply_broadcastable", X4 * X3[0], X4, X3[0]),
    two("divide_broadcastable", X4 / POSITIVE, X4, POSITIVE),
    two("max_broadcastable", np.maximum(X4, X3[0]), X4, X3[0]),
    two("min_broadcastable", np.minimum(X4, X3[0]), X4, X3[0]),
    two("pow_broadcastable", POSITIVE**X4, POSITIVE, X4),
    two("mod_broadcastable", np.mod(INTEGERS, DIVISORS), INTEGERS, DIVISORS),
    two("floor_div_broadcastable", np.floor(INTEGERS / DIVISORS), INTEGERS, DIVISORS),
    Case(
        "whereBroadcastable",
        {"x": FLAGS, "z": Y4, "w": X4},
        lambda b: b.add_where_broadcastable("l", ["x", "z", "w"], "y"),
        np.where(FLAGS > 0, Y4, X4),
    ),
]

REDUCED: dict[str, Callable[..., np.ndarray]] = {
    "sum": np.sum,
    "prod": np.prod,
    "mean": np.mean,
    "max": np.max,
    "min": np.min,
    "l1": lambda x, axis, keepdims: np.abs(x).sum(axis, keepdims=keepdims),
    "l2": lambda x, axis, keepdims: np.sqrt((x**2).sum(axis, keepdims=keepdims)),
    "sumsquare": lambda x, axis, keepdims: (x**2).sum(axis, keepdims=keepdims),
    "logsum": lambda x, axis, keepdims: np.log(x.sum(axis, keepdims=keepdims)),
    "logsumexp": lambda x, axis, keepdims: logsumexp(x, axis=axis, keepdims=keepdims),
}
OLD_REDUCED: dict[str, Callable[[np.ndarray, Any], np.ndarray]] = {
    "sum": lambda x, a: x.sum(a, keepdims=True),
    "avg": lambda x, a: x.mean(a, keepdims=True),
    "prod": lambda x, a: x.prod(a, keepdims=True),
    "logsum": lambda x, a: np.log(x + 1e-6).sum(a, keepdims=True),
    "sumsquare": lambda x, a: (x**2).sum(a, keepdims=True),
    "L1": lambda x, a: np.abs(x).sum(a, keepdims=True),
    "L2": lambda x, a: np.sqrt((x**2).sum(a, keepdims=True)),
    "max": lambda x, a: x.max(a, keepdims=True),
    "min": lambda x, a: x.min(a, keepdims=True),
    "argmax": lambda x, a: x.argmax(a, keepdims=True),
}
ORDER = X4.argsort(2)
REDUCTIONS = [
    *(
        one(f"reduce_{kind}", lambda x, f=f: f(x, axis=(1, -1), keepdims=False), POSITIVE, axes=[1, -1], keepdims=False)
        for kind, f in REDUCED.items()
    ),
    *(
        one(f"reduce_{kind}", lambda x, f=f: f(x, axis=2, keepdims=True), POSITIVE, axes=[2])
        for kind, f in REDUCED.items()
    ),
    one("reduce_sum", lambda x: x.sum().reshape(1), POSITIVE, reduce_all=True, keepdims=False),
    *(one("reduce", lambda x, f=f: f(x, -2), POSITIVE, axis="H", mode=mode) for mode, f in OLD_REDUCED.items()),
    one("reduce", lambda x: x.mean((1, 2, 3), keepdims=True), axis="CHW", mode="avg"),
    one("argmax", lambda x: x.argmax(-2, keepdims=True), axis=-2),
    one("argmin", lambda x: x.argmin(1), axis=1, keepdims=False),
    one("argmax", lambda x: x.argmax(keepdims=True), normal(9), axis=0, keepdims=False),
    Case(
        "topK",
        {"x": X4},
        lambda b: b.add_topk("l", ["x"], ["y", "y1"], k=3, axis=2, use_bottom_k=True),
        [np.take_along_axis(X4, ORDER, 2)[:, :, :3], ORDER[:, :, :3]],
    ),
    Case(
        "topK-input",
        {"x": X4, "z": np.array([3.0])},
        lambda b: b.add_topk("l", ["x", "z"], ["y", "y1"], axis=-2),
        [np.take_along_axis(X4, ORDER, 2)[:, :, :2:-1], ORDER[:, :, :2:-1]],
    ),
    one("argsort", lambda x: x.argsort(2), axis=2),
    one("argsort", lambda x: (-x).argsort(3), axis=3, descending=True),
    Case("cumSum", {"x": X4}, lambda b: b.add_cumsum("l", ["x"], "y", axis=1), X4.cumsum(1)),
    Case(
        "cumSum-reverse-exclusive",
        {"x": X4},
        lambda b: b.add_cumsum("l", ["x"], "y", axis=-1, reverse=True, exclusive=True),
        X4[..., ::-1].cumsum(-1)[..., ::-1] - X4,
    ),
]

CHW = X3.transpose(1, 2, 0)
SHAPES = [
    one("reshape", lambda x: x.reshape(2, 12, 7), X3, True, target_shape=(2, 12, 7), mode=0),
    one("reshape", lambda x: CHW.reshape(12, 7, 2).transpose(2, 0, 1), X3, True, target_shape=(2, 12, 7), mode=1),
    one("flatten", lambda x: x.reshape(-1), X3, True, mode=0),
    one("flatten", lambda x: x.transpose(0, 2, 3, 1).reshape(2, -1, 1, 1), mode=1),
    one("permute", lambda x: x.transpose(2, 0, 1), X3, True, dim=(0, 3, 1, 2)),
    one("permute", lambda x: x.transpose(1, 0, 2)[:, None, None], X3, True, dim=(2, 0, 1, 3)),
    one("sequence_repeat", lambda x: np.tile(x[None, None], (3, 1, 1, 1, 1)), X3, True, nrep=3),
    Case(
        "concat-sequences",
        {"x": X3, "z": X3 * 2},
        lambda b: b.add_elementwise("l", ["x", "z"], "y", "SEQUENCE_CONCAT"),
        np.stack([X3, X3 * 2])[:, None],
        old=True,
    ),
    Case("split", {"x": X4}, lambda b: b.add_split("l", "x", ["y", "y1"]), np.split(X4, 2, 1)),
    one(
        "reorganize_data",
        lambda x: x.reshape(2, 4, 3, 2, 2, 2).transpose(0, 3, 5, 1, 2, 4).reshape(2, 16, 3, 2),
        X4[..., :4],
        mode="SPACE_TO_DEPTH",
    ),
    one(
        "reorganize_data",
        lambda x: x.reshape(2, 2, 2, 1, 6, 7).transpose(0, 3, 4, 1, 5, 2).reshape(2, 1, 12, 14),
        mode="DEPTH_TO_SPACE",
    ),
    one("reorganize_data", lambda x: F.pixel_shuffle(T4, 2).numpy(), mode="PIXEL_SHUFFLE"),
    Case("crop", {"x": X4}, lambda b: b.add_crop("l", 1, 2, 0, 3, 0, ["x"], "y"), X4[:, :, :3, 1:5]),
    Case(
        "crop-like",
        {"x": X4, "z": X4[:, :1, :3, :2]},
        lambda b: b.add_crop("l", 0, 0, 0, 0, [1, 4], ["x", "z"], "y"),
        X4[:, :, 1:4, 4:6],
    ),
    *(
        Case(
            f"padding-{kind}",
            {"x": X4},
            lambda b, kind=kind: b.add_padding("l", 1, 2, 3, 0, 0.5, "x", "y", padding_type=kind),
            np.pad(X4, ((0, 0), (0, 0), (3, 0), (1, 2)), mode, **more),
        )
        for kind, mode, more in [
            ("constant", "constant", {"constant_values": 0.5}),
            ("reflection", "reflect", {}),
            ("replication", "edge", {}),
        ]
    ),
    Case("transpose", {"x": X4}, lambda b: b.add_transpose("l", [2, 0, 3, 1], *ONE), X4.transpose(2, 0, 3, 1)),
    two("stack", np.stack([X4, Y4], 4), X4, Y4, axis=-1),
    two("concat_nd", np.concatenate([X4, Y4], 2), X4, Y4, axis=-2),
    two("concat_nd", np.stack([X4, Y4], 2).reshape(2, 8, 6, 7), X4, Y4, axis=1, interleave=True),
    Case("splitND", {"x": X4}, lambda b: b.add_split_nd("l", "x", ["y", "y1"], axis=-2), np.split(X4, 2, 2)),
    Case(
        "splitND-sizes",
        {"x": X4},
        lambda b: b.add_split_nd("l", "x", ["y", "y1"], axis=3, split_sizes=[2, 5]),
        np.split(X4, [2], 3),
    ),
    one("tile", lambda x: np.tile(x, (2, 3)), reps=[2, 3]),
    one("squeeze", lambda x: x[:, :, 0, 0], Z4, axes=[2, -1]),
    one("squeeze", lambda x: x[:, :, 0, 0], Z4, squeeze_all=True),
    one("expand_dims", lambda x: x[:, None, ..., None], axes=[1, -1]),
    one("flatten_to_2d", lambda x: x.reshape(8, 42), axis=-2),
    two("reshape_like", X4.reshape(8, 42), X4, np.zeros((8, 42))),
    one("reshape_static", lambda x: x.reshape(3, -1, 4), output_shape=(3, -1, 4)),
    two("reshape_dynamic", X4.reshape(8, 6, 7), X4, np.array([8.0, 6, 7])),
    one("rank_preserving_reshape", lambda x: x.reshape(2, 8, 3, 7), output_shape=(0, 8, -1, 7)),
    Case(
        "constantPad",
        {"x": X3},
        lambda b: b.add_constant_pad("l", ["x"], "y", 0.5, False, [1, 0, 0, 2, 3, 0]),
        np.pad(X3, ((1, 0), (0, 2), (3, 0)), constant_values=0.5),
    ),
    Case(
        "constantPad-to-size",
        {"x": X3},
        lambda b: b.add_constant_pad("l", ["x"], "y", 0.5, True, [0, 9, 8, 0, 0, 0]),
        np.pad(X3, ((0, 5), (2, 0), (0, 0)), constant_values=0.5),
    ),
    one("reverse", lambda x: x[:, ::-1, :, ::-1], reverse_dim=[False, True, False, True]),
    two(
        "reverse_sequence",
        np.stack([np.concatenate([X4[0, :, :2][:, ::-1], X4[0, :, 2:]], 1), X4[1, :, ::-1]]),
        X4,
        np.array([2.0, 6]),
        batch_axis=0,
        seq_axis=2,
    ),
    one("copy", lambda x: x),
]

INDEX = np.array([[2, 0], [-1, 3]], np.float32)
ALONG = rng(7).integers(0, 6, (2, 4, 3, 7))
POINTS = np.array([[0, 1], [1, 3], [0, 1]], np.float32)


def scatter(mode: str, expected: np.ndarray, updates: np.ndarray) -> Case:
    add: Add = lambda b: b.add_scatter("l", ["x", "z", "w"], "y", axis=1, mode=mode)  # noqa: E731
    return Case(f"scatter-{mode}", {"x": X4, "z": np.array([3.0, 1.0]), "w": updates}, add, expected)


def scattered(function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    result = X4.copy()
    result[:, [3, 1]] = function(X4[:, [3, 1]], POSITIVE[:, :2])
    return result


def placed(indices: Any, add: bool = False) -> np.ndarray:
    result = X4.copy()
    if add:
        np.add.at(result, indices, Y4[:, :3] if isinstance(indices[0], slice) else Y4[0, :3])
    return result


PUT = X4.copy()
np.put_along_axis(PUT, ALONG, Y4[:, :, :3], 2)
ADDED = X4.copy()
np.add.at(ADDED, tuple(POINTS.T.astype(int)), X3[:3])
PICKED = [
    one("slice", lambda x: x[:, :, 1:5:2], axis="height", start_index=1, end_index=5, stride=2),
    one("slice", lambda x: x[..., 2:-1], axis="width", start_index=2, end_index=-1),
    one(
        "slice_static",
        lambda x: x[:1, 2, ::2, 5:1:-2],
        begin_ids=[0, 2, 3, 5],
        end_ids=[1, 0, 0, 1],
        strides=[1, 1, 2, -2],
        begin_masks=[False, False, True, False],
        end_masks=[False, False, True, False],
        squeeze_masks=[False, True, False, False],
    ),
    one(
        "slice_static",
        lambda x: x[::-1, -1],
        X3,
        begin_ids=[0, -1, 0],
        end_ids=[0, 0, 0],
        strides=[-1, 1, 1],
        begin_masks=[True, False, True],
        end_masks=[True, False, True],
        squeeze_masks=[False, True, False],
    ),
    Case(
        "sliceDynamic",
        {"x": X3, "z": np.array([1.0, -1, 2]), "w": np.array([3.0, 0, 7])},
        lambda b: b.add_slice_dynamic(
            "l",
            ["x", "z", "w"],
            "y",
            strides=[1, 1, 2],
            begin_masks=[0, 0, 0],
            end_masks=[0, 0, 1],
            squeeze_masks=[0, 1, 0],
        ),
        X3[1:3, -1, 2::2],
    ),
    two("slice_by_size", X4[:, :, 2:5], X4, np.array([2.0]), axis=2, size=3),
    one("sliding_windows", lambda x: np.stack([x[:, :, 0:3], x[:, :, 2:5]], 2), axis=2, window_size=3, step=2),
    two("gather", X4.take(INDEX.astype(int), 1), X4, INDEX, axis=1),
    two("gather_nd", X4[POINTS[:, 0].astype(int), POINTS[:, 1].astype(int)], X4, POINTS),
    two("gather_along_axis", np.take_along_axis(X4, ALONG, 2), X4, ALONG, axis=2),
    scatter("UPDATE", scattered(lambda x, u: u), POSITIVE[:, :2]),
    scatter("ADD", scattered(np.add), POSITIVE[:, :2]),
    scatter("SUB", scattered(np.subtract), POSITIVE[:, :2]),
    scatter("MUL", scattered(np.multiply), POSITIVE[:, :2]),
    scatter("DIV", scattered(np.divide), POSITIVE[:, :2]),
    scatter("MAX", scattered(np.maximum), POSITIVE[:, :2]),
    scatter("MIN", scattered(np.minimum), POSITIVE[:, :2]),
    Case(
        "scatterND",
        {"x": X4, "z": POINTS, "w": X3[:3]},
        lambda b: b.add_scatter_nd("l", ["x", "z", "w"], "y", mode="ADD"),
        ADDED,
    ),
    Case(
        "scatterAlongAxis",
        {"x": X4, "z": ALONG[:, :, :1], "w": Y4[:, :, :1]},
        lambda b: b.add_scatter_along_axis("l", ["x", "z", "w"], "y", axis=2),
        np.where(np.arange(6)[:, None] == ALONG[:, :, :1], Y4[:, :, :1], X4),
    ),
    one("where_nonzero", lambda x: np.argwhere(x), MORE_FLAGS),
    Case(
        "oneHot",
        {"x": np.array([2.0, -1, 0])},
        lambda b: b.add_one_hot("l", ["x"], "y", one_hot_vector_size=4, axis=-1, on_value=5.0, off_value=-1.0),
        [[[-1, -1, 5, -1], [-1] * 4, [5, -1, -1, -1]]],
    ),
    one("lower_triangular", lambda x: np.tril(x, 1), k=1),
    one("upper_triangular", lambda x: np.triu(x, -1), k=-1),
    one("matrix_band_part", lambda x: np.triu(np.tril(x, 2), -1), num_lower=1, num_upper=2),
]

LIKE = np.zeros((3, 5))
MADE = [
    Case(
        "loadConstant",
        {"x": X3},
        lambda b: (b.add_load_constant("c", "c", X3, (4, 6, 7)), b.add_elementwise("l", ["x", "c"], "y", "ADD")),
        X3 * 2,
        old=True,
    ),
    Case(
        "loadConstantND",
        {"x": X4},
        lambda b: (b.add_load_constant_nd("c", "c", X3, X3.shape), b.add_add_broadcastable("l", ["x", "c"], "y")),
        X4 + X3,
    ),
    one("get_shape", lambda x: np.array(x.shape)),
    Case(
        "rangeStatic",
        {"x": V},
        lambda b: b.add_range_static("l", "y", end=5.0, start=1.0, step=1.5),
        np.arange(1, 5, 1.5),
    ),
    Case(
        "rangeDynamic",
        {"x": np.array([5.0]), "z": np.array([1.0])},
        lambda b: b.add_range_dynamic("l", *TWO, step=1.5),
        np.arange(1, 5, 1.5),
    ),
    one("fill_like", lambda x: np.full(x.shape, 0.5), value=0.5),
    Case("fillStatic", {"x": V}, lambda b: b.add_fill_static("l", "y", (3, 5), 0.5), np.full((3, 5), 0.5)),
    one("fill_dynamic", lambda x: np.full((3, 5), 0.5), np.array([3.0, 5]), value=0.5),
    two("broadcast_to_like", np.broadcast_to(V[:3, None], (3, 5)), V[:3, None], LIKE),
    one("broadcast_to_static", lambda x: np.broadcast_to(x, (2, 4, 6, 7)), X3, output_shape=(2, 4, 6, 7)),
    two("broadcast_to_dynamic", np.broadcast_to(V[:3, None], (3, 5)), V[:3, None], np.array([3.0, 5])),
]


def upsampled(expected: torch.Tensor, **options: Any) -> Case:
    title = "-".join(["upsample", *(str(value) for value in options.values())])
    add: Add = lambda b: b.add_upsample("l", input_name="x", output_name="y", **options)  # noqa: E731
    return Case(title, {"x": X4}, add, expected.numpy())


def resized(mode: str, rows: np.ndarray, columns: np.ndarray) -> Case:
    """Points of the grid, as the proto's description of the mode gives them."""
    add: Add = lambda b: b.add_resize_bilinear("l", *ONE, len(rows), len(columns), mode)  # noqa: E731
    return Case(f"resizeBilinear-{mode}-{len(rows)}", {"x": X4}, add, sampled(X4, rows, columns))


def sampled(x: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    for axis, points in ((-2, rows), (-1, columns)):
        low = np.minimum(points.astype(int), x.shape[axis] - 1)
        high = np.minimum(low + 1, x.shape[axis] - 1)
        part = (points - low).reshape((-1, 1) if axis == -2 else (-1,))
        x = x.take(low, axis) * (1 - part) + x.take(high, axis) * part
    return x


def cropped(
    title: str, boxes: list[list[float]], grid: Callable[[float, float, int], np.ndarray], **options: Any
) -> Case:
    """Boxes [N, 1, 4, 1, 1] of X4 as [1, 2, 4, 6, 7]; `boxes` holds top, left, bottom, right in pixels."""
    array = np.array(options.pop("given", boxes), np.float32)[:, None, :, None, None]
    add: Add = lambda b: b.add_crop_resize("l", *TWO, target_height=3, target_width=2, **options)  # noqa: E731
    expected = [sampled(X4, grid(top, bottom, 3), grid(left, right, 2)) for top, left, bottom, right in boxes]
    return Case(f"cropResize-{title}", {"x": X4[None], "z": array}, add, np.stack(expected))


PIXELS = [[0.5, 1, 4, 5.5], [0, 0, 5, 6]]
RESIZED = [
    upsampled(T4.repeat_interleave(2, 2).repeat_interleave(3, 3), scaling_factor_h=2, scaling_factor_w=3),
    upsampled(
        F.interpolate(T4, scale_factor=2, mode="bilinear", align_corners=True),
        scaling_factor_h=2,
        scaling_factor_w=2,
        mode="BILINEAR",
        linear_upsample_mode="ALIGN_CORNERS_TRUE",
    ),
    upsampled(
        F.interpolate(T4, scale_factor=2, mode="bilinear", align_corners=False),
        scaling_factor_h=2,
        scaling_factor_w=2,
        mode="BILINEAR",
        linear_upsample_mode="ALIGN_CORNERS_FALSE",
    ),
    upsampled(
        torch.tensor(sampled(X4, np.minimum(np.arange(12) / 2, 5), np.minimum(np.arange(14) / 2, 6))),
        scaling_factor_h=2,
        scaling_factor_w=2,
        mode="BILINEAR",
    ),
    resized("STRICT_ALIGN_ENDPOINTS_MODE", np.linspace(0, 5, 4), np.zeros(1)),
    resized("ALIGN_ENDPOINTS_MODE", np.array([2.5]), np.linspace(0, 6, 9)),
    resized("ALIGN_ENDPOINTS_MODE", np.linspace(0, 5, 4), np.linspace(0, 6, 9)),
    resized("UPSAMPLE_MODE", np.arange(4) * 1.5, np.arange(14) * 0.5),
    resized("ROI_ALIGN_MODE", (np.arange(4) + 0.5) * 5 / 4, (np.arange(9) + 0.5) * 6 / 9),
    cropped("corners", PIXELS, np.linspace, mode="STRICT_ALIGN_ENDPOINTS_MODE"),
    cropped(
        "normalized-width-first",
        PIXELS,
        np.linspace,
        mode="ALIGN_ENDPOINTS_MODE",
        normalized_roi=True,
        box_indices_mode="CORNERS_WIDTH_FIRST",
        given=[[left / 6, top / 5, right / 6, bottom / 5] for top, left, bottom, right in PIXELS],
    ),
    cropped(
        "centres-roi-align",
        PIXELS,
        lambda first, last, n: first + (np.arange(n) + 0.5) * (last - first) / n,
        mode="ROI_ALIGN_MODE",
        box_indices_mode="CENTER_SIZE_HEIGHT_FIRST",
        given=[
            [(top + bottom) / 2, (left + right) / 2, bottom - top, right - left] for top, left, bottom, right in PIXELS
        ],
    ),
]

CASES = [
    *CONVOLUTIONS,
    *POOLINGS,
    *VOLUMES,
    *PRODUCTS,
    *NORMALIZATIONS,
    *ACTIVE,
    *ELEMENTS,
    *REDUCTIONS,
    *SHAPES,
    *PICKED,
    *MADE,
    *RESIZED,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_a_layer_gives_what_numpy_and_torch_give(case: Case) -> None:
    found = run(case.spec(), case.feeds)
    for array, expected in zip(found.values(), case.results, strict=True):
        assert_close(array, expected, case.tolerance)


def kinds_in(network: Any) -> set[str]:
    return {layer.WhichOneof("layer") for layer in network.layers}


TESTED_ELSEWHERE = {
    "recurrent": {"simpleRecurrent", "gru", "uniDirectionalLSTM", "biDirectionalLSTM"},
    "control": {"branch", "loop"},
    "random": {
        *(
            f"random{kind}{shape}"
            for kind in ("Normal", "Uniform", "Bernoulli")
            for shape in ("Like", "Static", "Dynamic")
        ),
        "categoricalDistribution",
    },
    "suppression": {"NonMaximumSuppression"},
}
"""In test_neural_network_<name>.py, those of suppression among coremltools' own cases."""


def test_every_layer_type_of_the_table_has_a_case() -> None:
    tested = set().union(*(kinds_in(case.spec().neuralNetwork) for case in CASES), *TESTED_ELSEWHERE.values())
    answered = {kind for kind, read in layers().items() if read}
    assert answered == tested


def test_every_kind_of_activation_has_a_case() -> None:
    tested = {case.spec().neuralNetwork.layers[0].activation.WhichOneof("NonlinearityType") for case in ACTIVE}
    assert set(ACTIVATIONS) <= tested


def test_at_least_nine_of_ten_layer_types_are_read() -> None:
    known = layers()
    assert [kind for kind, read in known.items() if not read] == ["custom", "loopBreak", "loopContinue"]
    assert len(known) == 158
