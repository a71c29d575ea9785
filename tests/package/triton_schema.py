"""ModelConfig as Triton publishes it (model_config.proto), as far as it is used, for protobuf's own text parser."""

from __future__ import annotations

from typing import Any

import pytest

__all__ = ["TYPES", "parse"]

TYPES = tuple(
    f"TYPE_{name}"
    for name in "INVALID BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 STRING BF16".split()  # noqa: SIM905
)

STRING, INT32, INT64, ENUM, MESSAGE = 9, 5, 3, 14, 11
FIELDS: dict[str, list[tuple[str, int, int, bool, str]]] = {
    "ModelTensorReshape": [("shape", 1, INT64, True, "")],
    "ModelInput": [
        ("name", 1, STRING, False, ""),
        ("data_type", 2, ENUM, False, "DataType"),
        ("dims", 4, INT64, True, ""),
        ("reshape", 5, MESSAGE, False, "ModelTensorReshape"),
    ],
    "ModelOutput": [
        ("name", 1, STRING, False, ""),
        ("data_type", 2, ENUM, False, "DataType"),
        ("dims", 3, INT64, True, ""),
        ("reshape", 5, MESSAGE, False, "ModelTensorReshape"),
    ],
    "ModelConfig": [
        ("name", 1, STRING, False, ""),
        ("platform", 2, STRING, False, ""),
        ("max_batch_size", 4, INT32, False, ""),
        ("input", 5, MESSAGE, True, "ModelInput"),
        ("output", 6, MESSAGE, True, "ModelOutput"),
        ("default_model_filename", 8, STRING, False, ""),
        ("backend", 17, STRING, False, ""),
    ],
}


def parse(text: str) -> Any:
    """Parse config.pbtxt by google.protobuf.text_format, which refuses what the schema does not have."""
    pool = pytest.importorskip("google.protobuf.descriptor_pool").DescriptorPool()
    from google.protobuf import descriptor_pb2, message_factory, text_format

    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="inference", syntax="proto3")
    enum = file.enum_type.add(name="DataType")
    for number, name in enumerate(TYPES):
        enum.value.add(name=name, number=number)
    for message, fields in FIELDS.items():
        made = file.message_type.add(name=message)
        for name, number, kind, repeated, other in fields:
            type_name = f".inference.{other}" if other else None
            made.field.add(name=name, number=number, type=kind, label=3 if repeated else 1, type_name=type_name)
    pool.Add(file)
    config = message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))()
    return text_format.Parse(text, config)
