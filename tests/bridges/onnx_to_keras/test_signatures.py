"""The table's signatures are ONNX's schemas."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from onnx import defs, helper

from tightship.bridges.onnx_to_keras import operators
from tightship.bridges.onnx_to_keras.table import INJECTED, OPERATORS
from tightship.core.operators import Entry

pytest.importorskip("keras")
operators.load()

ENTRIES = sorted(OPERATORS, key=lambda entry: (entry.name, entry.since))
SCHEMAS = defs.get_all_schemas_with_history()


def versions(entry: Entry) -> list[Any]:
    """Every schema that the entry answers for, oldest first."""
    schemas = [schema for schema in SCHEMAS if (schema.domain, schema.name) == (entry.domain, entry.name)]
    found = [schema for schema in schemas if OPERATORS.find(entry.name, schema.since_version, entry.domain) == entry]
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
    return bool((list(found) if isinstance(found, tuple) else found) == expected)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.name}-{entry.since}")
def test_a_signature_takes_the_attributes_of_every_version_that_it_answers_for(entry: Entry) -> None:
    found = versions(entry)
    assert found, f"ONNX has no {entry.name} of version {entry.since} or later"
    taken = {name: value for name, value in entry.attributes.items() if name not in INJECTED}
    assert set(taken) == {name for schema in found for name in schema.attributes} - {"consumed_inputs"}
    for schema in found:
        for name, attribute in schema.attributes.items():
            relaxed = attribute.required and not found[-1].attributes[name].required
            if name in taken and not relaxed:  # a later version may do without it
                assert same(taken[name], default(attribute)), f"{name} of version {schema.since_version}"


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.name}-{entry.since}")
def test_a_function_takes_as_many_inputs_as_the_schema(entry: Entry) -> None:
    found = versions(entry)
    variadic = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in entry.inputs)
    needed = sum(parameter.default is parameter.empty for parameter in entry.inputs) - variadic
    assert variadic == any(schema.max_input > 100 for schema in found)
    assert variadic or len(entry.inputs) >= max(schema.max_input for schema in found)
    assert needed <= min(schema.min_input for schema in found)
