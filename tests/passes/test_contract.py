"""What every pass of the table must do, whichever it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError, fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.nets import conv_net, lstm_net, mlp
from tests.passes.running import made_up_inputs, model_of, relative_error, run
from tightship.core import graph
from tightship.core.dataset import Dataset
from tightship.core.graph import operator_name
from tightship.core.model import Model
from tightship.core.passes import Pass, PassResult, Quantizer
from tightship.core.recipe import Recipe
from tightship.core.store import Store
from tightship.errors import InvalidModel
from tightship.passes import PASSES

NETS: dict[str, Callable[[], onnx.ModelProto]] = {"conv_net": conv_net, "mlp": mlp, "lstm_net": lstm_net}

LOSSLESS = 1e-5
"""Float32 sums in another order: a few units in the last place of the largest output."""

LOSSY = 0.2
"""As a fraction of the outputs' length: 4-bit weights cost 8 % per product, and there are up to three in a row."""

every_pass = pytest.mark.parametrize("kind", PASSES.values(), ids=list(PASSES))
every_graph_pass = pytest.mark.parametrize(
    "kind",
    [kind for kind in PASSES.values() if kind.form == "graph"],
    ids=[name for name, kind in PASSES.items() if kind.form == "graph"],
)
every_quantizer = pytest.mark.parametrize(
    "kind",
    [kind for kind in PASSES.values() if issubclass(kind, Quantizer)],
    ids=[name for name, kind in PASSES.items() if issubclass(kind, Quantizer)],
)
every_net = pytest.mark.parametrize("net", NETS.values(), ids=list(NETS))


def calibration_for(entry: Pass, model: Model) -> Dataset | None:
    if entry.data == "none":
        return None
    return Dataset.from_arrays("made up", "0", made_up_inputs(model, batch=16, seed=1), generated=True)


def applied(entry: Pass, model: Model) -> PassResult:
    return entry.apply(model, calibration_for(entry, model))


@every_pass
def test_a_pass_is_a_frozen_dataclass(kind: type[Pass]) -> None:
    assert is_dataclass(kind)
    entry = kind()
    with pytest.raises((FrozenInstanceError, AttributeError)):
        entry.name = "other"  # type: ignore[misc]


@every_pass
def test_the_name_of_a_pass_is_its_row_in_the_table(kind: type[Pass]) -> None:
    assert PASSES[kind.name] is kind


@every_pass
def test_every_field_has_a_default_that_toml_can_hold(kind: type[Pass]) -> None:
    for field in fields(kind):
        assert field.default is not MISSING, field.name
        plain = isinstance(field.default, bool | int | float | str)
        assert plain or (isinstance(field.default, tuple) and all(isinstance(item, str) for item in field.default))


@every_pass
def test_the_first_line_of_the_docstring_is_a_summary(kind: type[Pass]) -> None:
    assert kind.__doc__ is not None
    assert "__doc__" in vars(kind), "inherited"
    first, _, rest = kind.__doc__.partition("\n")
    assert first[0].isupper() and first.endswith(".") and len(first) < 100
    assert not rest.splitlines() or not rest.splitlines()[0].strip()


@every_pass
def test_a_pass_comes_back_from_a_recipe_as_it_was(kind: type[Pass]) -> None:
    entry = kind()
    if isinstance(entry, Quantizer):
        entry = replace(entry, exclude=("one", 'an "odd" name'))
    recipe = Recipe((entry,))
    assert Recipe.from_toml(recipe.to_toml(), PASSES) == recipe


@every_graph_pass
@every_net
def test_a_pass_does_not_touch_the_model_it_is_given(kind: type[Pass], net: Callable[[], onnx.ModelProto]) -> None:
    model = model_of(net())
    before = graph.to_bytes(model)
    applied(kind(), model)
    assert graph.to_bytes(model) == before
    assert model.history == ()


@every_graph_pass
@every_net
def test_a_pass_says_whether_it_changed_anything(kind: type[Pass], net: Callable[[], onnx.ModelProto]) -> None:
    entry, model = kind(), model_of(net())
    result = applied(entry, model)
    if result.changed:
        assert graph.to_bytes(result.model) != graph.to_bytes(model)
        assert result.model.history == (entry.step,)
    else:
        assert graph.to_bytes(result.model) == graph.to_bytes(model)
        assert result.model.history == ()


@every_graph_pass
@every_net
def test_a_pass_applied_to_its_own_result_finds_nothing_more(
    kind: type[Pass], net: Callable[[], onnx.ModelProto]
) -> None:
    once = applied(kind(), model_of(net())).model
    assert not applied(kind(), once).changed


@every_graph_pass
@every_net
def test_the_same_model_gives_the_same_result(kind: type[Pass], net: Callable[[], onnx.ModelProto]) -> None:
    first, second = (applied(kind(), model_of(net())).model for _ in range(2))
    assert graph.to_bytes(first) == graph.to_bytes(second)


@every_graph_pass
@every_net
def test_inputs_and_outputs_keep_their_names_types_and_shapes(
    kind: type[Pass], net: Callable[[], onnx.ModelProto]
) -> None:
    model = model_of(net())
    after = applied(kind(), model).model
    assert (after.inputs, after.outputs) == (model.inputs, model.outputs)
    assert graph.graph_specs(after.graph) == (model.inputs, model.outputs)


@every_graph_pass
@every_net
def test_outputs_stay_as_close_as_the_pass_promises(kind: type[Pass], net: Callable[[], onnx.ModelProto]) -> None:
    model = model_of(net())
    inputs = made_up_inputs(model, batch=64)  # of five the error is off by a third, up or down
    wanted, found = run(model, inputs), run(applied(kind(), model).model, inputs)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        assert relative_error(found[name], array) <= (LOSSLESS if kind.lossless else LOSSY)


@every_graph_pass
def test_a_weight_that_is_not_a_number_is_refused_by_name(kind: type[Pass]) -> None:
    proto = mlp()
    weight = next(tensor for tensor in proto.graph.initializer if tensor.name == "w2")
    array = numpy_helper.to_array(weight).copy()
    array[3, 5] = np.nan
    weight.CopyFrom(numpy_helper.from_array(array, "w2"))
    model = model_of(proto)
    with pytest.raises(InvalidModel, match="w2"):
        applied(kind(), model)


@every_graph_pass
def test_weights_that_are_also_inputs_are_weights_all_the_same(kind: type[Pass]) -> None:
    """Files of ONNX's first three IR versions list every initializer among the inputs."""
    plain, old = mlp(), mlp()
    for tensor in old.graph.initializer:
        old.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    old.ir_version = 3
    if not applied(kind(), model_of(plain)).changed:
        pytest.skip(f"{kind.name} finds nothing to do in this net")
    result = applied(kind(), model_of(old))
    assert result.changed
    assert [spec.name for spec in graph.graph_specs(result.model.graph)[0]] == ["x"]
    inputs = made_up_inputs(result.model)
    expected = run(applied(kind(), model_of(plain)).model, inputs)
    np.testing.assert_array_equal(run(result.model, inputs)["y"], expected["y"])


@every_graph_pass
def test_constants_in_operators_are_left_as_they_are_in_the_source(kind: type[Pass]) -> None:
    """Lifting a Constant to an initializer renames its tensor, which a shallow copy would share with the source."""
    proto = mlp()
    weight = proto.graph.initializer[0]
    constant = onnx.helper.make_node(
        "Constant", [], [weight.name], value=numpy_helper.from_array(numpy_helper.to_array(weight))
    )
    proto.graph.node.insert(0, constant)
    del proto.graph.initializer[0]
    model = model_of(proto)
    before = graph.to_bytes(model)
    result = applied(kind(), model)
    assert result.changed == applied(kind(), model_of(mlp())).changed
    assert graph.to_bytes(model) == before


@every_quantizer
@every_net
def test_the_operators_of_a_quantizer_are_in_the_graph(
    kind: type[Quantizer], net: Callable[[], onnx.ModelProto]
) -> None:
    model = model_of(net())
    by_name = {operator_name(node): node for node in model.graph.graph}
    operators = kind().operators(model)
    assert len({operator.name for operator in operators}) == len(operators)
    for operator in operators:
        assert by_name[operator.name].op_type == operator.op_type
        assert operator.weight_bytes > 0


@every_quantizer
@every_net
def test_a_quantizer_changes_a_model_if_and_only_if_it_names_operators(
    kind: type[Quantizer], net: Callable[[], onnx.ModelProto]
) -> None:
    model = model_of(net())
    assert applied(kind(), model).changed == bool(kind().operators(model))


@every_quantizer
@every_net
def test_a_quantizer_that_excludes_all_operators_changes_nothing(
    kind: type[Quantizer], net: Callable[[], onnx.ModelProto]
) -> None:
    model = model_of(net())
    every = tuple(operator.name for operator in kind().operators(model))
    result = applied(kind(exclude=every), model)
    assert not result.changed
    assert graph.to_bytes(result.model) == graph.to_bytes(model)


@every_quantizer
def test_an_excluded_operator_keeps_its_weight(kind: type[Quantizer]) -> None:
    model = model_of(mlp())
    excluded = kind().operators(model)[0]
    after = applied(kind(exclude=(excluded.name,)), model).model
    names = {value.name for value in after.graph.graph.initializers.values()}
    assert "w1" in names
    assert "w2" not in names


@every_quantizer
def test_an_excluded_name_that_no_operator_has_is_told(kind: type[Quantizer]) -> None:
    model = model_of(mlp())
    known = kind().operators(model)[0].name
    result = applied(kind(exclude=(f"{known}x",)), model)
    assert any(f"{known}x" in note and f"did you mean {known!r}" in note for note in result.notes)


@every_quantizer
def test_observing_once_serves_every_rewrite(kind: type[Quantizer], tmp_path: Path) -> None:
    """The search stores what was observed, then leaves operators out one after another."""
    model = model_of(mlp())
    entry = kind()
    observed = entry.observe(model, calibration_for(entry, model))
    stored = Store(tmp_path).arrays("observe", "", lambda: observed)
    assert stored.keys() == observed.keys()
    for name, array in observed.items():
        np.testing.assert_array_equal(stored[name], array)
    narrower = kind(exclude=(entry.operators(model)[0].name,))
    again = applied(narrower, model).model
    assert graph.to_bytes(narrower.rewrite(model, stored).model) == graph.to_bytes(again)


@every_quantizer
def test_a_weight_that_two_operators_share_is_stored_once(kind: type[Quantizer]) -> None:
    once = model_of(mlp())
    twice_proto = mlp()
    twice_proto.graph.node[2].input[1] = "w1"
    del twice_proto.graph.initializer[1]
    twice = model_of(twice_proto)
    after = applied(kind(), twice).model
    inputs = made_up_inputs(twice)
    assert relative_error(run(after, inputs)["y"], run(twice, inputs)["y"]) <= LOSSY
    saved = graph.initializer_bytes(applied(kind(), once).model.graph) - graph.initializer_bytes(after.graph)
    assert saved >= 256 * 256 // 2  # one matrix of 256 x 256 at 4 bits or more
