"""The cases that Apple's coremltools tests its layers with on macOS, run on what we read instead.

The package carries them; their tolerance of 1e-2 is narrowed to 5e-4 (some of their references have three digits).
Of the thousands of cases the first eight of each test are run and then every seventeenth; `make test-slow` runs all.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import unittest
from collections.abc import Callable
from typing import Any

import coremltools
import numpy as np
import pytest

from tests.formats.neural_network_cases import run

apple = pytest.importorskip("coremltools.test.neural_network.test_numpy_nn_layers")

GROUPS = ("SimpleTest", "NewLayersSimpleTest", "IOS14SingleLayerTests", "TestReorganizeDataTests")
LEFT_OUT = {
    "test_topk_cpu": "expects the order that numpy's unstable sort gives equal numbers",
    "test_random_normal_like_cpu": "a hundred million numbers; test_neural_network_random.py has the layer",
    "test_categorical_distribution_cpu_logits": "its case needs macOS; test_neural_network_random.py has the layer",
    "test_categorical_distribution_cpu_probs": "its case needs macOS; test_neural_network_random.py has the layer",
    "test_conv3d_cpu_slow": "the same as test_conv3d_cpu_basic with larger sizes",
    "test_slice_dynamic_cpu": "says at run time which axes go, so no rank is known; our own case has the layer",
    "test_unknown_rank": "builds a network and does not run it",
}
CASES = [
    (group, name)
    for group in GROUPS
    for name, _ in inspect.getmembers(getattr(apple, group), inspect.isfunction)
    if name.startswith("test_") and "_gpu" not in name.lower() and name not in LEFT_OUT
]

ONLY_SLOW = {"test_conv3d_cpu_basic", "test_pool3d_cpu", "test_scatter_cpu", "test_scatter_nd_cpu"}
"""Hundreds of networks that take longer to build than to judge."""
QUICK = [case for case in CASES if case[1] not in ONLY_SLOW]


class Judge:
    """Stands for `CorrectnessTest._test_model`: the same checks on our own reading of the model."""

    def __init__(self, every: int) -> None:
        self.every, self.asked, self.ran = every, 0, 0

    def __call__(
        self,
        case: Any,
        model: Any,
        input: dict[str, np.ndarray],
        expected: dict[str, np.ndarray],
        model_precision: Any = None,
        output_name_shape_dict: dict[str, Any] | None = None,
        validate_shapes_only: bool = False,
        test_metric: str = "rel_error",
        delta: float = 0.01,
        SNR: float = 30,
        useCPUOnly: bool = False,
    ) -> None:
        self.asked += 1
        if self.asked > 8 and self.asked % self.every:
            return
        self.ran += 1
        if model_precision == apple._MLMODEL_HALF_PRECISION:
            model = coremltools.utils._convert_neural_network_spec_weights_to_fp16(model)
        found = run(model, input)
        for name, array in expected.items():
            self.compare(case, found[name], np.asarray(array), (output_name_shape_dict or {}).get(name, ()))
            if not validate_shapes_only:
                case._test_predictions(np.asarray(array), found[name], min(delta, 5e-4), test_metric, SNR)

    def compare(self, case: Any, found: np.ndarray, expected: np.ndarray, shape: Any) -> None:
        if type(case).__name__ == "SimpleTest":
            case._test_shape_equality(expected, found)
        else:
            case._test_nd_shape_equality(expected, found, shape or ((1,) if expected.ndim == 0 else ()))


def same_moments(model: Any, inputs: Any, expected: Any, use_cpu_only: bool = True, num_moments: int = 10) -> None:
    found = run(model, inputs)
    for name, array in expected.items():
        for k in range(min(num_moments, 4)):
            moments = [np.mean((each - each.mean()) ** k) for each in (array, found[name])]
            assert moments[0] == pytest.approx(moments[1], abs=0.2)
        expected[name] = found[name]


@pytest.mark.parametrize(("group", "name"), QUICK, ids=[name for _, name in QUICK])
def test_what_apple_expects_of_a_layer(group: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _judged(group, name, monkeypatch, every=17)


@pytest.mark.slow
@pytest.mark.parametrize(("group", "name"), CASES, ids=[name for _, name in CASES])
def test_everything_that_apple_expects_of_a_layer(group: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _judged(group, name, monkeypatch, every=1)


def _judged(group: str, name: str, monkeypatch: pytest.MonkeyPatch, every: int) -> None:
    judge = Judge(every)
    monkeypatch.setattr(apple.CorrectnessTest, "_test_model", lambda self, *args, **how: judge(self, *args, **how))
    monkeypatch.setattr(apple.CorrectnessTest, "_compare_moments", staticmethod(same_moments))
    monkeypatch.setattr(pytest, "xfail", lambda *args, **how: None)  # what fails on the device need not fail here
    np.random.seed(10)
    with contextlib.redirect_stdout(io.StringIO()):
        _unskipped(group, name)()
    assert judge.ran


def _unskipped(group: str, name: str) -> Callable[[], None]:
    """Return a test that its own file would skip off macOS."""
    case: unittest.TestCase = getattr(apple, group)()
    function = getattr(type(case), name)
    return lambda: inspect.unwrap(function)(case)
