"""The protocol's messages, made from `open_inference.desc` in a pool of descriptors of their own.

In protobuf's common pool they would collide with the same messages of tritonclient or kserve in one process; and no
generated code ties a version of protobuf.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

__all__ = ["METHODS", "SERVICE", "message"]

SERVICE = "inference.GRPCInferenceService"
METHODS = (
    *("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer"),
    *("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"),
)


@cache
def message(name: str) -> Any:
    """Return the class of a message of the package `inference`, such as `ModelInferRequest`."""
    from google.protobuf import message_factory

    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"inference.{name}"))


@cache
def _pool() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool

    described = resources.files(__package__).joinpath("open_inference.desc").read_bytes()
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(described).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool
