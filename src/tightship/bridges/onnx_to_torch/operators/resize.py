"""Resizing and sampling of images and volumes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tightship.bridges.onnx_to_torch.table import OPERATORS


@OPERATORS.op("Resize", 11)
def resize(
    x: Tensor,
    roi: list[float] | None = None,
    scales: list[float] | None = None,
    sizes: list[int] | None = None,
    *,
    antialias: int = 0,
    axes: list[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Tensor:
    """Resize axis by axis; each item of an axis is a weighted sum of the items near its place."""
    chosen = [axis % x.ndim for axis in axes] if axes is not None else list(range(x.ndim))
    lengths, factors = resized(x, chosen, scales, sizes, keep_aspect_ratio_policy)
    fast = interpolated(x, chosen, lengths, factors, mode, coordinate_transformation_mode, nearest_mode, antialias)
    if fast is not None:
        return fast
    y = x if mode == "nearest" or x.is_floating_point() else x.float()
    for index, axis in enumerate(chosen):
        if lengths[index] == x.shape[axis] and coordinate_transformation_mode != "tf_crop_and_resize":
            continue
        edges = (roi[index], roi[index + len(chosen)]) if roi else (0.0, 1.0)
        places = source_places(x.shape[axis], lengths[index], factors[index], coordinate_transformation_mode, edges)
        if mode == "nearest":
            y = y.index_select(axis, nearest(places, nearest_mode).clamp(0, x.shape[axis] - 1))
        else:
            scale = min(factors[index], 1.0) if antialias else 1.0
            weights = tap_weights(places, x.shape[axis], mode, scale, cubic_coeff_a, exclude_outside)
            y = torch.tensordot(y, weights.to(y.dtype), ([axis], [1])).movedim(-1, axis)
        if coordinate_transformation_mode == "tf_crop_and_resize":
            outside = (places < 0) | (places > x.shape[axis] - 1)
            shape = [-1 if k == axis else 1 for k in range(x.ndim)]
            y = torch.where(outside.reshape(shape), torch.tensor(extrapolation_value, dtype=y.dtype), y)
    return y.to(x.dtype)


def resized(
    x: Tensor, axes: list[int], scales: list[float] | None, sizes: list[int] | None, policy: str
) -> tuple[list[Any], list[float]]:
    """New lengths and factors of the axes."""
    if not sizes:
        factors = list(scales or [1.0] * len(axes))
        # A factor of 1 keeps a length that is known only when the model runs.
        lengths = [
            x.shape[axis] if factor == 1 else math.floor(x.shape[axis] * factor)
            for axis, factor in zip(axes, factors, strict=True)
        ]
        return lengths, factors
    factors = [1.0 if n is x.shape[axis] else n / x.shape[axis] for n, axis in zip(sizes, axes, strict=True)]
    if policy == "stretch":
        return list(sizes), factors
    factor = min(factors) if policy == "not_larger" else max(factors)
    return [math.floor(factor * x.shape[axis] + 0.5) for axis in axes], [factor] * len(axes)


def interpolated(
    x: Tensor,
    axes: list[int],
    lengths: list[Any],
    factors: list[float],
    mode: str,
    place: str,
    nearest_mode: str,
    antialias: int,
) -> Tensor | None:
    """What torch's own function gives, or None where it means something else."""
    n_spatial = x.ndim - 2
    whole = all(lengths[index] == x.shape[axis] for index, axis in enumerate(axes) if axis < 2)
    if antialias or n_spatial not in (1, 2, 3) or not whole or not x.is_floating_point():
        return None
    found = dict(zip(axes, lengths, strict=True))
    size = [found.get(axis, x.shape[axis]) for axis in range(2, x.ndim)]
    # torch works with the ratio of the lengths, ONNX with the factor, which may have been rounded.
    exact = all(n == x.shape[axis] * factor for axis, n, factor in zip(axes, lengths, factors, strict=True))
    if mode == "nearest" and place == "asymmetric" and nearest_mode == "floor" and exact:
        return functional.interpolate(x, size, mode="nearest")
    linear = ("linear", "bilinear", "trilinear")[n_spatial - 1]
    if mode == "linear" and place == "align_corners" and exact:
        return functional.interpolate(x, size, mode=linear, align_corners=True)
    if mode == "linear" and exact and (place == "half_pixel" or (place == "pytorch_half_pixel" and 1 not in size)):
        return functional.interpolate(x, size, mode=linear, align_corners=False)
    return None


def source_places(n: int, length: int, factor: float, mode: str, edges: tuple[float, float]) -> Tensor:
    """Where each of the new items lies among the `n` old ones, in float64."""
    y = torch.arange(length, dtype=torch.float64)
    whole = factor * n
    if mode == "asymmetric":
        return y / factor
    if mode == "align_corners":
        return torch.zeros_like(y) if whole == 1 else y * (n - 1) / (whole - 1)
    if mode == "tf_crop_and_resize":
        first, last = edges
        if length == 1:
            return torch.full_like(y, 0.5 * (first + last) * (n - 1))
        return first * (n - 1) + y * (last - first) * (n - 1) / (length - 1)
    if mode == "pytorch_half_pixel" and length == 1:
        return torch.full_like(y, -0.5)
    half = (y + 0.5) / factor - 0.5
    return n / 2 * (1 - length / whole) + half if mode == "half_pixel_symmetric" else half


def nearest(places: Tensor, mode: str) -> Tensor:
    """The index that each place is rounded to."""
    if mode == "round_prefer_floor":
        return torch.ceil(places - 0.5).long()
    if mode == "round_prefer_ceil":
        return torch.floor(places + 0.5).long()
    return (torch.floor(places) if mode == "floor" else torch.ceil(places)).long()


def tap_weights(places: Tensor, n: int, mode: str, scale: float, cubic: float, exclude_outside: int) -> Tensor:
    """Weights `[new, old]`: linear or cubic in the distance, wider where an axis shrinks with antialiasing."""
    reach = 2 if mode == "cubic" else 1
    around = math.ceil(reach / scale)
    taps = torch.floor(places).long().unsqueeze(1) + torch.arange(-around, around + 1)
    distance = (taps - places.unsqueeze(1)).abs() * scale
    if mode == "cubic":
        near = ((cubic + 2) * distance - (cubic + 3)) * distance**2 + 1
        far = ((distance - 5) * distance + 8) * distance * cubic - 4 * cubic
        weights = torch.where(distance <= 1, near, torch.where(distance < 2, far, torch.zeros_like(far)))
    else:
        weights = (1 - distance).clamp(min=0)
    if exclude_outside:
        weights = torch.where((taps < 0) | (taps >= n), torch.zeros_like(weights), weights)
    weights = weights / weights.sum(1, keepdim=True)
    return torch.zeros(places.shape[0], n, dtype=weights.dtype).scatter_add(1, taps.clamp(0, n - 1), weights)


@OPERATORS.op("Resize", 10)
def resize_10(x: Tensor, scales: list[float], *, mode: str = "nearest") -> Tensor:
    return resize(x, None, scales, coordinate_transformation_mode="asymmetric", mode=mode, nearest_mode="floor")


@OPERATORS.op("Upsample", 9)
def upsample(x: Tensor, scales: list[float], *, mode: str = "nearest") -> Tensor:
    return resize_10(x, scales, mode=mode)


@OPERATORS.op("Upsample", 7)
def upsample_7(x: Tensor, *, mode: str = "nearest", scales: list[float]) -> Tensor:
    return resize_10(x, scales, mode=mode)


@OPERATORS.op("GridSample", 20)
def grid_sample(
    x: Tensor, grid: Tensor, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros"
) -> Tensor:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    return functional.grid_sample(x, grid.to(x.dtype), mode, padding_mode, bool(align_corners))


@OPERATORS.op("GridSample", 16)
def grid_sample_16(
    x: Tensor, grid: Tensor, *, align_corners: int = 0, mode: str = "bilinear", padding_mode: str = "zeros"
) -> Tensor:
    return grid_sample(x, grid, align_corners=align_corners, mode=mode, padding_mode=padding_mode)


@OPERATORS.op("AffineGrid", 20)
def affine_grid(theta: Tensor, size: list[int], *, align_corners: int = 0) -> Tensor:
    return functional.affine_grid(theta, size, bool(align_corners))
