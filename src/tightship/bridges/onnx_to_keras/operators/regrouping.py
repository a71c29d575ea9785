"""Reshapes that split or join neighbouring axes, done in the order in which the axes lie.

channels-last [N, H, W, C] stands for [N, C, H, W]; splitting C into g x c there needs no transpose:
[N, H, W, g, c] stands for [N, g, c, H, W]
"""

from __future__ import annotations

from collections.abc import Sequence

from keras import ops

from tightship.bridges.onnx_to_keras.layout import arrange
from tightship.bridges.onnx_to_keras.values import Tensor

__all__ = ["regrouped"]

Group = tuple[tuple[int, ...], tuple[int, ...]]
"""Logical axes of the input and of the output that hold the same elements."""


def regrouped(x: Tensor, target: Sequence[int]) -> Tensor | None:
    """Reshape without bringing the axes into the graph's order, or return None where nothing would be saved.

    `target` has at most one -1.
    """
    if x.straight:
        return None
    groups = _groups(x.shape, target)
    if groups is None or len(groups) < 2:
        return None
    placed = sorted(groups, key=lambda group: min((x.axes[axis] for axis in group[0]), default=-1))
    wanted_order = [axis for group in placed for axis in group[0]]
    value = arrange(x, tuple(wanted_order.index(axis) for axis in range(x.rank)))
    output_order = [axis for group in placed for axis in group[1]]
    result = ops.reshape(value, tuple(target[axis] for axis in output_order))
    return Tensor(result, tuple(output_order.index(axis) for axis in range(len(target))))


def _groups(own: Sequence[int | None], target: Sequence[int]) -> list[Group] | None:
    """Pair the axes off from the left; a free first axis must stay the first."""
    groups: list[Group] = []
    left, right = list(enumerate(own)), list(enumerate(target))
    if None in own:
        if own[0] is not None or list(own).count(None) > 1 or not target or target[0] != -1:
            return None
        groups.append(((0,), (0,)))
        left, right = left[1:], right[1:]
    if any(number <= 0 for _, number in right) or any(not length for _, length in left):
        return None
    while left or right:
        group = _next_group(left, right)
        if group is None:
            return None
        groups.append(group)
        left, right = left[len(group[0]) :], right[len(group[1]) :]
    return groups


def _next_group(left: Sequence[tuple[int, int | None]], right: Sequence[tuple[int, int]]) -> Group | None:
    """Take the fewest axes from both sides that have the same number of elements."""
    n_left, n_right, have, want = 0, 0, 1, 1
    while n_left == 0 or n_right == 0 or have != want:
        if (n_left == 0 or have < want) and n_left < len(left):
            have *= left[n_left][1] or 1
            n_left += 1
        elif n_right < len(right) and (n_right == 0 or want < have):
            want *= right[n_right][1]
            n_right += 1
        else:
            break
    if have != want:
        return None
    if n_left == len(left) or n_right == len(right):  # axes of length 1 that are left over go with the last group
        n_left, n_right = len(left), len(right)
    if any(length != 1 for _, length in left[n_left:]) and not right[n_right:]:
        return None
    return tuple(axis for axis, _ in left[:n_left]), tuple(axis for axis, _ in right[:n_right])
