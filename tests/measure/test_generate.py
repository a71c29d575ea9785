"""Generated inputs: values that the graph can take, shapes that fit, the same every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tightship import formats
from tightship.core import graph
from tightship.core.feeds import feeds
from tightship.core.model import Model
from tightship.core.target import Target
from tightship.engines import open_session
from tightship.errors import DatasetMismatch, UnsupportedError
from tightship.measure import generate as generation
from tightship.measure.generate import generate

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'
TABLE = np.zeros((7, 4), np.float32)


def model(body: str, **weights: np.ndarray) -> Model:
    proto = onnx.parser.parse_model(HEADER + body)
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return graph.from_bytes(proto.SerializeToString())


def drawn(source: Model, n_items: int = 200, seed: int = 0) -> dict[str, np.ndarray]:
    batches = list(generate(source, n_items, seed).open())
    return {name: np.concatenate([batch.inputs[name] for batch in batches]) for name in batches[0].inputs}


def runs(source: Model, n_items: int = 5) -> bool:
    with open_session(source, Target()) as session:
        return all(session.run(feed.arrays) for feed in feeds(generate(source, n_items, 0), source.inputs))


def test_every_real_model_runs_on_what_is_generated_for_it(data_dir: Path) -> None:
    for path in sorted(data_dir.rglob("*.onnx")):
        assert runs(formats.read(formats.recognise(str(path))), n_items=2), path


def test_the_same_seed_gives_the_same_items_and_digest() -> None:
    source = model("g (float[n, 3] x) => (float[n, 3] y) { y = Relu(x) }")
    first, again, other = generate(source, 40, 1), generate(source, 40, 1), generate(source, 40, 2)
    assert first.digest == again.digest != other.digest
    np.testing.assert_array_equal(next(first.open()).inputs["x"], next(again.open()).inputs["x"])
    assert not np.array_equal(next(first.open()).inputs["x"], next(other.open()).inputs["x"])


def test_the_digest_depends_on_what_is_drawn() -> None:
    one = model("g (float[n, 3] x) => (float[n, 3] y) { y = Relu(x) }")
    other = model("g (float[n, 4] x) => (float[n, 4] y) { y = Relu(x) }")
    assert len({generate(one, 4, 0).digest, generate(one, 5, 0).digest, generate(other, 4, 0).digest}) == 3


def test_a_generated_dataset_says_so_and_has_no_labels() -> None:
    dataset = generate(model("g (float[n, 3] x) => (float[n, 3] y) { y = Relu(x) }"), 8, 0)
    assert (dataset.generated, dataset.labelled, dataset.n_items) == (True, False, 8)


def test_large_data_is_drawn_anew_and_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    source = model("g (float[n, 3] x) => (float[n, 3] y) { y = Relu(x) }")
    kept = drawn(source, 50)["x"]
    monkeypatch.setattr(generation, "_KEPT_BYTES", 0)
    dataset = generate(source, 50, 0)
    assert len(list(dataset.open())) > 1
    np.testing.assert_array_equal(drawn(source, 50)["x"], kept)
    assert dataset.n_items == 50


def test_a_negative_seed_is_a_seed() -> None:
    assert generate(model("g (float[n, 3] x) => (float[n, 3] y) { y = Relu(x) }"), 8, -1).n_items == 8


# -- shapes -------------------------------------------------------------------------------------------------------


def test_axes_of_one_name_get_one_length() -> None:
    source = model("g (float[n, t, 3] a, float[n, 3, t] b) => (float[n, t, t] y) { y = MatMul(a, b) }")
    arrays = drawn(source, 4)
    assert arrays["a"].shape == (4, 16, 3)
    assert arrays["b"].shape == (4, 3, 16)
    assert runs(source)


def test_images_get_a_longer_side() -> None:
    source = model("g (float[n, 3, h, w] x) => (float[n, 3, h, w] y) { y = Relu(x) }")
    assert drawn(source, 2)["x"].shape == (2, 3, 64, 64)


def test_a_length_that_is_a_sum_follows_its_parts() -> None:
    source = model("g (float[n, past, 2] a, float[n, t, 2] b, float[n, s, 2] c) => (float[n, s, 2] y) { d = Concat<axis=1>(a, b)  y = Add(d, c) }")  # fmt: skip  # noqa: E501
    source.graph.graph.inputs[2].shape = type(source.graph.graph.inputs[2].shape)(["n", "past + t", 2])
    source = graph.from_ir(source.graph)
    assert drawn(source, 2)["c"].shape == (2, 32, 2)
    assert runs(source)


def test_items_fill_a_fixed_batch() -> None:
    source = model("g (float[4, 3] x) => (float[4, 3] y) { y = Relu(x) }")
    assert drawn(source, 9)["x"].shape == (12, 3)
    assert runs(source, 9)


def test_a_state_whose_axis_0_is_one_gets_one_per_item() -> None:
    source = model("g (float[1, 5] x, float[1, 2, 5] h) => (float[1, 2, 5] y) { y = Add(x, h) }")
    assert drawn(source, 6)["h"].shape == (6, 2, 5)
    assert runs(source, 6)


def test_a_scalar_gets_one_value_per_item() -> None:
    source = model("g (float[1, 5] x, float s) => (float[1, 5] y) { y = Mul(x, s) }")
    assert drawn(source, 6)["s"].shape == (6,)
    assert runs(source, 6)


def test_a_state_with_its_batch_on_axis_1_takes_as_many_as_the_inputs() -> None:
    body = "g (float[n, 3] x, float[2, n, 3] h) => (float[2, n, 3] y) { y = Add(x, h) }"
    assert runs(model(body), 6)


def test_inputs_that_fix_different_batches_are_a_mismatch() -> None:
    source = model("g (float[4, 3] x, float[2] s) => (float[4, 3] y, float[2] z) { y = Relu(x)  z = Relu(s) }")
    with pytest.raises(DatasetMismatch):
        generate(source, 4, 0)


def test_an_input_larger_than_memory_is_refused() -> None:
    source = model(f"g (float[n, {2**38}] x) => (float[n, {2**38}] y) {{ y = Relu(x) }}")
    with pytest.raises(UnsupportedError, match="give data"):
        generate(source, 4, 0)


# -- values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "g (int64[n, 3] i) => (float[n, 3, 4] y) { y = Gather(w, i) }",
        "g (int32[n, 3] i) => (float[n, 3, 4] y) { j = Cast<to=7>(i)  y = Gather(w, j) }",
        "g (float[n, 3] i) => (float[n, 3, 4] y) { j = Cast<to=7>(i)  y = Gather(w, j) }",
        "g (int64[n, 3] i) => (float[k, 4] y) { f = Reshape(i, s)  y = Gather(w, f) }",
        "g (int64[n, 3] i) => (float[n, 3, 7] y) { y = OneHot(i, d, v) }",
        "g (int64[n, 7] i) => (float[n, 7] y) { t = Transpose(w)  u = Slice(t, a, b) y = GatherElements<axis=1>(u,i) }",
    ],
    ids=["direct", "cast", "from-float", "reshape", "one-hot", "elements-of-a-computed-table"],
)
def test_indices_reach_every_row_of_their_table_and_no_more(body: str) -> None:
    source = model(
        body, w=TABLE, s=np.array([-1]), d=np.array(7), v=np.float32([0, 1]), a=np.array([0]), b=np.array([4])
    )
    indices = drawn(source)["i"]
    assert (indices.min(), indices.max()) == (0, 6)


@pytest.mark.parametrize(("operator", "shift", "low", "high"), [("Add", 2, -2, 4), ("Sub", 2, 2, 8)])
def test_indices_make_up_for_a_shift(operator: str, shift: int, low: int, high: int) -> None:
    body = f"g (int64[n, 3] i) => (float[n, 3, 4] y) {{ j = {operator}(i, c)  y = Gather(w, j) }}"
    indices = drawn(model(body, w=TABLE, c=np.array(shift)))["i"]
    assert (indices.min(), indices.max()) == (low, high)


def test_indices_fit_the_smallest_of_several_tables() -> None:
    body = "g (int64[n] i) => (float[n, 4] y) { a = Gather(w, i)  b = Gather(v, i)  y = Add(a, b) }"
    assert drawn(model(body, w=TABLE, v=TABLE[:3].copy()))["i"].max() == 2


def test_an_image_that_is_divided_by_255_runs_to_255() -> None:
    image = drawn(model("g (float[n, 3, 8, 8] x) => (float[n, 3, 8, 8] y) { y = Div(x, c) }", c=np.float32(255)))["x"]
    assert 0 <= image.min() < 5
    assert 250 < image.max() <= 255


def test_a_normalization_at_the_start_is_undone() -> None:
    body = "g (float[n, 3] x) => (float[n, 3] y) { a = Sub(x, m)  y = Div(a, s) }"
    values = drawn(model(body, m=np.float32([100]), s=np.float32([20])), 3000)["x"]
    assert values.mean() == pytest.approx(100, abs=1)  # 9,000 draws of deviation 20: 5 standard errors
    assert values.std() == pytest.approx(20, abs=1)


def test_a_quantized_input_covers_its_range() -> None:
    body = "g (float[n, 8] x) => (uint8[n, 8] y) { y = QuantizeLinear(x, s, z) }"
    values = drawn(model(body, s=np.float32(0.1), z=np.uint8(55)))["x"]
    assert -5.5 <= values.min() < -5
    assert 19 < values.max() <= 20


def test_other_floats_are_standard_normal() -> None:
    values = drawn(model("g (float[n, 8] x) => (float[n, 8] y) { y = Relu(x) }"), 1000)["x"]
    assert values.mean() == pytest.approx(0, abs=0.06)  # 8,000 draws: 5 standard errors
    assert values.std() == pytest.approx(1, abs=0.04)


def test_masks_are_ones_up_to_a_random_length() -> None:
    body = "g (int64[n, 20] attention_mask) => (float[n, 20] y) { y = Cast<to=1>(attention_mask) }"
    mask = drawn(model(body))["attention_mask"]
    lengths = mask.sum(axis=1)
    assert (mask == (np.arange(20) < lengths[:, None])).all()
    assert (lengths.min(), lengths.max()) == (10, 20)


def test_other_integers_go_by_name_and_type() -> None:
    body = (
        "g (int64[n, 4] token_type_ids, int64[n, 4] position_ids, int64[n] lengths, uint8[n, 4] image, bool[n, 4] b,"
        " int32[n] k) => (int64[n, 4] y) { y = Add(token_type_ids, position_ids) }"
    )
    arrays = drawn(model(body))
    assert set(np.unique(arrays["token_type_ids"])) == {0, 1}
    assert (arrays["position_ids"] == np.arange(4)).all()
    assert arrays["lengths"].min() >= 1
    assert (arrays["image"].min(), arrays["image"].max()) == (0, 255)
    assert arrays["b"].dtype == bool and 0 < arrays["b"].mean() < 1
    assert (arrays["k"].min(), arrays["k"].max()) == (0, 9)


@pytest.mark.parametrize(("kind", "name"), [("float16", "float16"), ("bfloat16", "bfloat16"), ("double", "float64")])
def test_floats_have_the_type_of_the_input(kind: str, name: str) -> None:
    array = drawn(model(f"g ({kind}[n, 3] x) => ({kind}[n, 3] y) {{ y = Identity(x) }}"))["x"]
    assert array.dtype.name == name
    assert array.astype(np.float32).std() == pytest.approx(1, abs=0.2)


def test_texts_are_words() -> None:
    source = model("g (string[n] x) => (string[n] y) { y = Identity(x) }")
    assert all(isinstance(word, str) for word in drawn(source)["x"])
    assert runs(source)


def test_a_type_that_cannot_be_drawn_is_refused() -> None:
    source = model("g (complex64[n] x) => (complex64[n] y) { y = Identity(x) }")
    with pytest.raises(UnsupportedError, match="give data"):
        generate(source, 4, 0)


def test_a_long_chain_in_front_of_a_table_is_followed() -> None:
    chain = "".join(f" i{k + 1} = Identity(i{k})" for k in range(3000))
    body = f"g (int64[n] i0) => (float[n, 4] y) {{{chain} y = Gather(w, i3000) }}"
    assert drawn(model(body, w=TABLE))["i0"].max() == 6


# -- modules ------------------------------------------------------------------------------------------------------


def test_a_module_gets_inputs_like_its_examples() -> None:
    torch = pytest.importorskip("torch")
    from tightship.core.torch_module import from_torch

    class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: object, i: object, m: object) -> object:
            return x * i + m  # type: ignore[operator]

    example = (torch.rand(1, 5) * 9, torch.tensor([[2, 3, 4, 2, 3]]), torch.randn(1, 5))
    arrays = drawn(from_torch(Net().eval(), example))
    assert arrays["x"].dtype == np.float32
    assert arrays["x"].min() >= 0
    assert arrays["x"].max() <= 9
    assert (arrays["i"].dtype, arrays["i"].min(), arrays["i"].max()) == (np.int64, 2, 4)
    assert arrays["m"].min() < 0


def test_a_module_whose_example_is_one_index_gets_all_rows_of_its_embedding() -> None:
    torch = pytest.importorskip("torch")
    from tightship.core.torch_module import from_torch

    source = from_torch(torch.nn.Embedding(11, 3).eval(), (torch.zeros(1, 4, dtype=torch.int64),))
    indices = drawn(source)["input"]
    assert (indices.shape[1:], indices.min(), indices.max()) == ((4,), 0, 10)
