"""Addition, around a fault of Keras.

`keras.ops.add` of Keras 3.15 on TensorFlow takes any second operand that squeezes to a vector for a bias of the last
axis or axis 1, so that `[2, 4, 4] + [1, 4, 1]` is silently `[2, 4, 4] + [4]`. Where that would be wrong, `a - (-b)` is
the same number to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

__all__ = ["plus"]


def plus(left: Any, right: Any) -> Any:
    """Return the broadcasting sum of two tensors, arrays or numbers."""
    if _is_mistaken(_shape(left), _shape(right)):
        return ops.subtract(left, -right if isinstance(right, np.ndarray) else ops.negative(right))
    return ops.add(left, right)


def _shape(value: Any) -> Sequence[int | None]:
    return tuple(getattr(value, "shape", ()))


def _is_mistaken(left: Sequence[int | None], right: Sequence[int | None]) -> bool:
    """Whether Keras would add `right` along another axis than the one that it broadcasts to."""
    long = [place - len(right) for place, length in enumerate(right) if length != 1]
    if len(long) != 1 or len(left) < 2:
        return False
    length = right[long[0]]
    if length is None or length not in (left[1], left[-1]):
        return False
    meant = -1 if left[-1] == length else 1 - len(left)
    return long[0] != meant or len(right) > len(left)
