"""The table's signatures are ONNX's schemas."""

from __future__ import annotations

import inspect
from typing import Any

import onnx
import pytest
from onnx import defs, helper

from tightship.bridges.onnx_to_torch import operators  # noqa: F401  (fills the table)
from tightship.bridges.onnx_to_torch.table import INJECTED, OPERATORS
from tightship.core.operators import Entry

ENTRIES = sorted((entry for entry in OPERATORS if entry.domain != "com.microsoft"), key=lambda e: (e.name, e.since))
"""ONNX publishes no schemas of `com.microsoft`."""

SCHEMAS = defs.get_all_schemas_with_history()


def versions(entry: Entry) -> list[Any]:
    """Every schema that the entry answers for, oldest first."""
    schemas = [schema for schema in SCHEMAS if (schema.domain, schema.name) == (entry.domain, entry.name)]
    found = [schema for schema in schemas if OPERATORS.find(entry.name, schema.since_version, entry.domain) == entry]
    older = [schema for schema in schemas if schema.since_version < entry.since]
    if not any(schema.since_version == entry.since for schema in found) and older:
        found.append(max(older, key=lambda schema: schema.since_version))
    return sorted(found, key=lambda schema: schema.since_version)


def default(attribute: Any) -> Any:
    if attribute.required:
        return inspect.Parameter.empty
    if not attribute.default_value.name:
        return None
    value = helper.get_attribute_value(attribute.default_value)
    if isinstance(value, bytes):
        return value.decode()
    return [item.decode() if isinstance(item, bytes) else item for item in value] if isinstance(value, list) else value


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, float):
        return bool(found == pytest.approx(expected, rel=1e-6))
    if str(found).startswith("torch."):  # the number of an element type in ONNX
        name = onnx.TensorProto.DataType.Name(expected).lower()
        return str(found) == {"float": "torch.float32"}.get(name, f"torch.{name}")
    return bool(found is expected or found == expected)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.domain}{entry.name}-{entry.since}")
def test_a_signature_is_the_schema_of_every_version_that_it_answers_for(entry: Entry) -> None:
    found = versions(entry)
    assert found, f"ONNX has no {entry.name} of version {entry.since} or later"
    taken = {name: value for name, value in entry.attributes.items() if name not in INJECTED}
    # An attribute may be newer than a version: its default is then what that version did.
    assert set(taken) == {name for schema in found for name in schema.attributes}
    for schema in found:
        for name, attribute in schema.attributes.items():
            assert same(taken[name], default(attribute)), f"{name} of version {schema.since_version}"


@pytest.mark.parametrize(
    "entry",
    [entry for entry in ENTRIES if entry.signature],
    ids=lambda entry: f"{entry.domain}{entry.name}-{entry.since}",
)
def test_a_function_takes_as_many_inputs_as_the_schema(entry: Entry) -> None:
    found = versions(entry)
    variadic = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in entry.inputs)
    needed = sum(parameter.default is parameter.empty for parameter in entry.inputs) - variadic
    assert variadic == any(schema.max_input > 100 for schema in found)
    assert variadic or len(entry.inputs) == max(schema.max_input for schema in found)
    assert needed <= min(schema.min_input for schema in found)


def test_functions_stand_alone_so_that_their_text_can_be_copied() -> None:
    for entry in OPERATORS:
        if entry.signature and entry.function.__module__.startswith("tightship"):
            assert not inspect.getclosurevars(entry.function).nonlocals, entry.name
            assert inspect.getsource(entry.function)
