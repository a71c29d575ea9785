"""Paddings of convolutions and poolings: what the spec's valid and same mean in amounts before and after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tightship.errors import UnsupportedError
from tightship.formats.neural_network.layer import Layer

__all__ = ["Padding", "borders", "of_2d", "of_3d", "same_amounts"]

_LARGEST = 2**31


@dataclass(frozen=True)
class Padding:
    """`before` and `after` per spatial axis, or `auto`, ONNX's word for a same padding of unknown sizes."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    auto: str | None = None

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of ONNX's Conv and pooling operators."""
        return {"auto_pad": self.auto} if self.auto else {"pads": [*self.before, *self.after]}

    @property
    def amounts(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The amounts; raises `UnsupportedError` where they depend on sizes known at run time only."""
        if self.auto:
            raise UnsupportedError("a same padding here needs the input's size; fix the input shape")
        return self.before, self.after


def borders(layer: Layer, message: Any) -> tuple[list[int], list[int]]:
    """Return the (start, end) amounts of a BorderAmounts message in the order [H, W]; zeros where it is empty."""
    found = message.borderAmounts
    if len(found) not in (0, 2):
        raise layer.refuse(f"expected border amounts for [H, W], found {len(found)}")
    starts = [int(edge.startEdgeSize) for edge in found] or [0, 0]
    ends = [int(edge.endEdgeSize) for edge in found] or [0, 0]
    if max(starts + ends) >= _LARGEST:
        raise layer.refuse(f"expected border amounts below {_LARGEST}, found {max(starts + ends)}")
    return starts, ends


def same_amounts(sizes: list[int], kernel: list[int], stride: list[int], first_heavy: bool) -> Padding:
    """Return the amounts with which the output has ceil(size / stride) elements; `kernel` is the dilated one."""
    totals = [
        max(0, (-(-size // step) - 1) * step + extent - size)
        for size, extent, step in zip(sizes, kernel, stride, strict=True)
    ]
    small = tuple(total // 2 for total in totals)
    large = tuple(total - total // 2 for total in totals)
    return Padding(large, small) if first_heavy else Padding(small, large)


def of_2d(layer: Layer, sizes: list[int | None], kernel: list[int], stride: list[int]) -> Padding:
    """Return the padding of a two-dimensional layer that has the fields `valid` and `same`."""
    if not layer.params.HasField("same"):
        starts, ends = borders(layer, layer.params.valid.paddingAmounts)
        return Padding(tuple(starts), tuple(ends))
    return _same(sizes, kernel, stride, layer.params.same.asymmetryMode == 1)


def of_3d(layer: Layer, sizes: list[int | None], kernel: list[int], stride: list[int]) -> Padding:
    """Return the padding of a three-dimensional layer."""
    kind = layer.choice("paddingType")
    if kind == "SAME":
        return _same(sizes, kernel, stride, first_heavy=False)
    if kind == "VALID":
        return Padding((0, 0, 0), (0, 0, 0))
    amounts = [int(getattr(layer.params, f"customPadding{side}")) for side in _SIDES]
    if not all(0 <= amount < _LARGEST for amount in amounts):
        raise layer.refuse(f"expected padding amounts of 0 or more, found {amounts}")
    return Padding(tuple(amounts[0::2]), tuple(amounts[1::2]))


_SIDES = ("Front", "Back", "Top", "Bottom", "Left", "Right")


def _same(sizes: list[int | None], kernel: list[int], stride: list[int], first_heavy: bool) -> Padding:
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        return Padding(auto="SAME_LOWER" if first_heavy else "SAME_UPPER")
    return same_amounts(known, kernel, stride, first_heavy)
