"""Parity: what agrees, what does not, and what cannot be told."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tightship.core import graph
from tightship.core.dataset import Dataset
from tightship.core.measurement import Agreement
from tightship.core.model import Model
from tightship.core.session import Session
from tightship.core.specs import TensorSpec
from tightship.core.target import Target
from tightship.engines import open_session
from tightship.errors import DatasetMismatch
from tightship.measure import parity
from tightship.measure.tally import Tally

THOUSAND = np.float32([1000])
HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'


def model(body: str, **weights: np.ndarray) -> Model:
    proto = onnx.parser.parse_model(HEADER + body)
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return graph.from_bytes(proto.SerializeToString())


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def data(n_items: int = 16, **arrays: np.ndarray) -> Dataset:
    return Dataset.from_arrays("test", "0", arrays or {"x": normal(n_items, 8)})


def compare(first: Model, second: Model, dataset: Dataset | None = None, **options: float) -> Agreement:
    with open_session(first, Target()) as one, open_session(second, Target()) as other:
        return parity.compare(one, other, dataset or data(), **options)  # type: ignore[arg-type]


def linear(weight: np.ndarray | None = None, x: str = "x", y: str = "y", batch: str = "n") -> Model:
    body = f"g (float[{batch}, 8] {x}) => (float[{batch}, 4] {y}) {{ {y} = MatMul({x}, w) }}"
    return model(body, w=normal(8, 4) if weight is None else weight)


def softmax(scale: float) -> Model:
    """Probabilities of 1/4, give or take `scale` / 4."""
    body = "g (float[n, 8] x) => (float[n, 4] y) { t = MatMul(x, w)  y = Softmax(t) }"
    return model(body, w=normal(8, 4) * np.float32(scale))


class Answers:
    """A session whose outputs a function of its inputs makes up."""

    def __init__(self, outputs: Mapping[str, Callable[[np.ndarray], np.ndarray]]) -> None:
        self.target = Target()
        self.inputs = (TensorSpec("x", "float32", ("n", 8)),)
        self.outputs = tuple(TensorSpec(name, "unknown", ()) for name in outputs)
        self._outputs = outputs

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: function(inputs["x"]) for name, function in self._outputs.items()}


def judge(
    first: Callable[[np.ndarray], np.ndarray],
    second: Callable[[np.ndarray], np.ndarray],
    n_items: int = 16,
    **options: float,
) -> Agreement:
    one, other = Answers({"y": first}), Answers({"y": second})
    return parity.compare(_session(one), _session(other), data(n_items), **options)  # type: ignore[arg-type]


def _session(answers: Answers) -> Session:
    return answers  # type: ignore[return-value]


def test_a_model_agrees_with_itself_exactly() -> None:
    agreement = compare(linear(), linear())
    assert (agreement.agrees, agreement.error, agreement.cause, agreement.n_items) == (True, 0.0, "", 16)


def test_a_changed_weight_is_seen() -> None:
    weight = normal(8, 4)
    weight[2, 1] *= 1.1
    agreement = compare(linear(), linear(weight))
    assert not agreement.agrees
    assert agreement.output == "y"
    assert agreement.error > 1
    assert "output 'y': off by" in agreement.cause


def test_rounding_alone_is_no_difference() -> None:
    """The same sums in another order differ by a few roundings of float32."""
    first = model("g (float[n, 8] x) => (float[n, 4] y) { y = MatMul(x, w) }", w=normal(8, 4))
    parts = "a, b = Split<axis=1>(x)  c = MatMul(b, wb)  d = MatMul(a, wa)  y = Add(c, d)"
    halves = {"wa": normal(8, 4)[:4].copy(), "wb": normal(8, 4)[4:].copy()}
    second = model(f"g (float[n, 8] x) => (float[n, 4] y) {{ {parts} }}", **halves)
    agreement = compare(first, second)
    assert agreement.agrees
    assert 0 < agreement.max_abs < 1e-6


def test_an_error_of_a_nearly_constant_softmax_is_judged_by_its_variation() -> None:
    """Every probability is 0.25 to five digits, so any softmax would pass a tolerance relative to its value."""
    agreement = compare(softmax(1e-5), softmax(-1e-5))
    assert agreement.max_abs < 1e-4 * 0.25 * 2
    assert not agreement.agrees
    assert agreement.error > 10


def test_a_tiny_output_is_judged_by_its_own_scale() -> None:
    """Outputs of 1e-20 lie far below `atol`, and still an error of 10 % is one."""
    assert not judge(lambda x: x * 1e-20, lambda x: x * 1.1e-20).agrees


def test_the_tolerance_is_relative_to_the_variation() -> None:
    def first(x: np.ndarray) -> np.ndarray:
        return x

    def second(x: np.ndarray) -> np.ndarray:
        return x + np.float32(5e-3)

    assert not judge(first, second, rtol=1e-3).agrees
    assert judge(first, second, rtol=1e-2).agrees


def test_what_rounding_of_the_inputs_moves_an_output_is_allowed() -> None:
    """Near 1000 one rounding of the input is 6e-5, which 10^4 (x - 1000) turns into 0.6; it varies by 10^4."""
    first = model(
        "g (float[n, 8] x) => (float[n, 8] y) { a = Sub(x, c)  y = Mul(a, d) }", c=THOUSAND, d=np.float32([1e4])
    )
    second = model(
        "g (float[n, 8] x) => (float[n, 8] y) { a = Mul(x, d)  y = Sub(a, e) }",
        d=np.float32([1e4]),
        e=np.float32([1e7]),
    )
    agreement = compare(first, second, data(x=THOUSAND + normal(16, 8)), rtol=1e-6)
    assert agreement.max_abs > 0.1
    assert agreement.agrees


def test_what_rounding_does_not_explain_is_not_allowed() -> None:
    """The same error on inputs near 0, where one rounding of the input moves the output by 0.001."""
    first = model("g (float[n, 8] x) => (float[n, 8] y) { y = Mul(x, d) }", d=np.float32([1e4]))
    second = model(
        "g (float[n, 8] x) => (float[n, 8] y) { a = Mul(x, d)  y = Add(a, e) }",
        d=np.float32([1e4]),
        e=np.float32([0.5]),
    )
    assert not compare(first, second, rtol=1e-6).agrees


@pytest.mark.parametrize("who", ["first", "second", "both"])
def test_nan_never_agrees(who: str) -> None:
    def nan(x: np.ndarray) -> np.ndarray:
        return np.where(x > 2, np.float32("nan"), x)

    def plain(x: np.ndarray) -> np.ndarray:
        return x

    agreement = judge(nan if who != "second" else plain, nan if who != "first" else plain, n_items=64)
    assert not agreement.agrees
    assert "NaN" in agreement.cause
    assert ("first" if who != "second" else "second") in agreement.cause


def test_infinities_agree_in_the_same_places_only() -> None:
    def masked(x: np.ndarray) -> np.ndarray:
        return np.where(x > 1, np.float32("-inf"), x)

    assert judge(masked, masked).agrees
    assert "infinity in other places" in judge(masked, lambda x: x).cause
    assert "infinity in other places" in judge(masked, lambda x: np.where(x > 1, np.float32("inf"), x)).cause


def test_another_shape_is_named() -> None:
    agreement = judge(lambda x: x, lambda x: x[..., np.newaxis])
    assert not agreement.agrees
    assert agreement.cause == "output 'y': shape [3, 8, 1], expected [3, 8]"


def test_another_type_is_named() -> None:
    agreement = judge(lambda x: x, lambda x: x.astype(np.float64))
    assert not agreement.agrees
    assert agreement.cause == "output 'y': type float64, expected float32"


def test_every_output_is_compared() -> None:
    body = "g (float[n, 8] x) => (float[n, 8] a, float[n, 8] b) {{ a = Neg(x)  b = {}(x) }}"
    agreement = compare(model(body.format("Abs")), model(body.format("Relu")))
    assert not agreement.agrees
    assert agreement.output == "b"


def test_a_missing_output_is_told() -> None:
    two = model("g (float[n, 8] x) => (float[n, 8] a, float[n, 8] b) { a = Neg(x)  b = Abs(x) }")
    one = model("g (float[n, 8] x) => (float[n, 8] a) { a = Neg(x) }")
    assert compare(two, one).cause == "1 outputs (a), expected 2 (a, b)"


def test_integers_must_be_equal() -> None:
    def classes(x: np.ndarray) -> np.ndarray:
        return x.argmax(axis=1)

    def one_other(x: np.ndarray) -> np.ndarray:
        found = x.argmax(axis=1)
        found[0] += 1
        return found

    assert judge(classes, classes).agrees
    agreement = judge(classes, one_other, n_items=15)
    assert not agreement.agrees
    assert "5 of 15 elements (33.33%)" in agreement.cause
    assert judge(classes, one_other, n_items=15, flipped_fraction=0.4).agrees


def test_texts_must_be_equal() -> None:
    def words(x: np.ndarray) -> np.ndarray:
        return np.where(x[:, 0] > 0, "yes", "no").astype(object)

    assert judge(words, words).agrees
    assert not judge(words, lambda x: np.full(len(x), "yes", dtype=object)).agrees


def test_outputs_that_never_vary_show_nothing() -> None:
    def constant(x: np.ndarray) -> np.ndarray:
        return np.full((len(x), 2), 0.5, np.float32)

    agreement = judge(constant, constant)
    assert not agreement.agrees
    assert "does not vary over these 16 items" in agreement.cause
    assert "give data" in agreement.cause


def test_one_output_that_never_varies_is_told_and_the_others_decide() -> None:
    body = "g (float[n, 8] x) => (float[n, 8] a, float[2] anchors) { a = Neg(x)  anchors = Identity(c) }"
    agreement = compare(*(model(body, c=np.float32([1, 2])) for _ in range(2)))
    assert agreement.agrees
    assert "output anchors does not vary" in agreement.cause
    assert not compare(model(body, c=np.float32([1, 2])), model(body, c=np.float32([1, 2.001]))).agrees


def test_one_item_is_judged_by_its_spread() -> None:
    assert compare(linear(), linear(), data(1)).agrees
    assert not compare(linear(), linear(normal(8, 4) * np.float32(1.01)), data(1)).agrees


def test_items_of_different_shapes_can_be_compared() -> None:
    """Detectors give as many rows as they find."""
    body = "g (float[n, 8] x) => (float y) { s = Relu(x)  i = NonZero(s)  t = Transpose(i)  y = GatherND(s, t) }"
    first = body.replace("(float y)", "(float[k] y)")
    second = first.replace("y = GatherND(s, t)", "u = GatherND(s, t)  y = Mul(u, c)")
    assert compare(model(first), model(second, c=np.float32([1]))).agrees
    assert not compare(model(first), model(second, c=np.float32([1.01]))).agrees


def test_names_may_differ_where_position_tells() -> None:
    assert compare(linear(), linear(x="input_1", y="t743")).agrees


def test_names_that_are_but_positions_are_paired_by_position() -> None:
    assert parity.pair(["input_1", "state"], ["input_0", "input_1"]) == {"input_1": "input_0", "state": "input_1"}
    assert parity.pair(["a", "b"], ["b", "a"]) == {"a": "a", "b": "b"}
    assert parity.pair(["input_0", "input_1"], ["input_1", "input_0"]) == {"input_0": "input_0", "input_1": "input_1"}
    assert parity.pair(["a", "b"], ["x", "a"]) == {"a": "a", "b": "x"}


def test_several_inputs_are_paired_by_name_whatever_their_order() -> None:
    body = "g (float[n, 8] {}, float[n, 8] {}) => (float[n, 8] y) {{ y = Sub(a, b) }}"
    dataset = data(a=normal(6, 8), b=normal(6, 8, seed=1))
    assert compare(model(body.format("a", "b")), model(body.format("b", "a")), dataset).agrees


def test_an_input_of_another_type_is_told() -> None:
    half = model("g (float16[n, 8] x) => (float[n, 8] y) { y = Cast<to=1>(x) }")
    whole = model("g (float[n, 8] x) => (float[n, 8] y) { y = Identity(x) }")
    assert compare(whole, half).cause == "input 'x' takes float16, expected float32"


def test_a_batch_that_was_baked_in_is_seen() -> None:
    baked = model("g (float[n, 8] x) => (float[n, 8] y) { t = Neg(x)  y = Reshape(t, s) }", s=np.array([1, 8]))
    agreement = compare(model("g (float[n, 8] x) => (float[n, 8] y) { y = Neg(x) }"), baked)
    assert not agreement.agrees
    assert "fails on 3 items that the first takes" in agreement.cause


def test_a_fixed_batch_is_filled_and_its_padding_left_out() -> None:
    agreement = compare(linear(), linear(batch="4"), data(10))
    assert agreement.agrees
    assert agreement.n_items == 10


def test_a_reference_that_takes_one_item_in_spite_of_its_word_is_compared_one_by_one() -> None:
    body = "g (float[n, 8] x) => (float[n, 2, 4] y) { y = Reshape(x, s) }"
    assert compare(*(model(body, s=np.array([1, 2, 4])) for _ in range(2))).agrees


def test_data_of_other_names_and_number_is_a_mismatch() -> None:
    with pytest.raises(DatasetMismatch, match="expected arrays x, found a, b"):
        compare(linear(), linear(), data(a=normal(4, 8), b=normal(4, 8)))


def test_no_more_items_are_run_than_asked_for() -> None:
    agreement = compare(linear(), linear(), data(200), max_items=9)
    assert agreement.n_items == 9


@pytest.mark.parametrize("second", [lambda x: x, lambda x: x.astype(np.float64), lambda x: x * np.float32("nan")])
def test_an_agreement_goes_to_json_and_back(second: Callable[[np.ndarray], np.ndarray]) -> None:
    agreement = judge(lambda x: x, second)
    assert msgspec.json.decode(msgspec.json.encode(agreement), type=Agreement) == agreement


def test_signal_to_noise_is_that_of_the_variation() -> None:
    """Noise of a hundredth of the variation is 40 dB below it; a constant offset in the signal does not count."""
    agreement = judge(lambda x: x + 1000, lambda x: x * np.float32(1.01) + 1000, n_items=64)
    assert agreement.sqnr_db == pytest.approx(40, abs=1.5)  # the sample's own spread moves it


def test_two_engines_agree_on_a_real_model(data_dir: object) -> None:
    pytest.importorskip("openvino")
    path = data_dir / "mlperf_tiny_alibaba_onnx" / "model_kws.onnx"  # type: ignore[operator]
    dataset = Dataset.from_arrays("test", "0", {"x:0": normal(6, 49, 10, 1)})
    with open_session(path, Target()) as one, open_session(path, Target("openvino")) as other:
        assert parity.compare(one, other, dataset).agrees


@pytest.mark.parametrize(("off", "agrees"), [(0, True), (4, True), (5, False)])
def test_bytes_may_differ_by_the_steps_that_are_allowed(off: int, agrees: bool) -> None:
    reference = np.array([[0, 250], [100, 7]], np.uint8)
    tally = Tally(steps=4)
    tally.add(reference, reference + np.uint8(off), 2)
    assert (not tally.judge(1e-3, 1e-5).cause) == agrees


def test_wider_integers_have_no_steps() -> None:
    reference = np.array([[0, 250], [100, 7]], np.int32)
    tally = Tally(steps=4)
    tally.add(reference, reference + np.int32(1), 2)
    assert tally.judge(1e-3, 1e-5).cause


def test_rounding_to_a_shorter_type_explains_more() -> None:
    reference = np.float32([[8.0, 7.99], [7.98, 8.01]])
    rounded = reference.astype(np.float16).astype(np.float32)
    verdicts = []
    for unit in (0.0, 2**-11):
        tally = Tally(unit=unit)
        tally.add(reference, rounded, 2)
        verdicts.append(not tally.judge(1e-3, 1e-5).cause)
    assert verdicts == [False, True]
