"""What a model takes, made ready for checking requests: each of its inputs as the protocol speaks of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tightship.core.specs import TensorSpec
from tightship.errors import nearest
from tightship.serve.failures import BadRequest
from tightship.serve.protocol.datatypes import bytes_elements, datatype_of, numpy_dtype

__all__ = ["Input", "Signature"]

MAX_ELEMENTS = 1 << 40


class Input:
    """One input as a model wants it. `datatype` is the protocol's, `dtype` numpy's, `itemsize` in bytes (BYTES: 0)."""

    __slots__ = ("_dims", "datatype", "dtype", "itemsize", "name", "spec")

    def __init__(self, spec: TensorSpec) -> None:
        self.spec = spec
        self.name = spec.name
        self.datatype = datatype_of(spec.dtype)
        self.dtype = numpy_dtype(spec.dtype)
        self.itemsize = 0 if self.datatype == "BYTES" else self.dtype.itemsize
        self._dims = spec.shape

    def count(self, datatype: str, shape: Sequence[int]) -> int:
        """Return how many elements a tensor has that is announced like this. Raises `BadRequest` where none fits."""
        if datatype != self.datatype:
            raise BadRequest(f"input {self.name!r}: expected datatype {self.datatype}, found {datatype[:40]!r}")
        count, fits = 1, len(shape) == len(self._dims)
        for want, got in zip(self._dims, shape, strict=False):
            if got != want and (got < 0 or isinstance(want, int)):
                fits = False
            count *= got
        if not fits or count > MAX_ELEMENTS:
            found = ", ".join(str(got)[:20] for got in shape[:12])
            wanted = ", ".join("any" if isinstance(dim, str) else str(dim) for dim in self._dims)
            raise BadRequest(f"input {self.name!r}: expected shape [{wanted}], found [{found}]")
        return count

    def from_raw(self, datatype: str, shape: Sequence[int], data: memoryview | bytes) -> np.ndarray:
        """Return a tensor's array from its binary content, which it keeps looking at. Raises `BadRequest`."""
        count = self.count(datatype, shape)
        if not self.itemsize:
            elements = np.array(bytes_elements(memoryview(data), count, self.name), dtype=object)
            return elements.reshape(shape)
        if len(data) != count * self.itemsize:
            raise BadRequest(
                f"input {self.name!r}: expected {count * self.itemsize} bytes for {count} elements of {self.datatype}, "
                f"found {len(data)}"
            )
        array = np.frombuffer(data, self.dtype, count).reshape(shape)
        if self.datatype == "BOOL" and array.view(np.uint8).max(initial=0) > 1:
            raise BadRequest(f"input {self.name!r}: a BOOL is a byte of 0 or 1")
        return array if array.flags.aligned else array.copy()


class Signature:
    """The inputs and outputs of a model, by name."""

    __slots__ = ("floats", "inputs", "n_inputs", "output_datatypes", "outputs")

    def __init__(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        self.inputs: Mapping[str, Input] = {spec.name: Input(spec) for spec in inputs}
        self.outputs: Mapping[str, TensorSpec] = {spec.name: spec for spec in outputs}
        self.output_datatypes: Mapping[str, str] = {spec.name: datatype_of(spec.dtype) for spec in outputs}
        self.n_inputs = len(self.inputs)
        self.floats = all(wanted.dtype.kind in "fV" for wanted in self.inputs.values())

    def input(self, name: str) -> Input:
        """Return the input of this name. Raises `BadRequest` that names the nearest and all of them."""
        found = self.inputs.get(name)
        if found is None:
            raise BadRequest(
                f"the model has no input {name[:80]!r}{nearest(name[:80], self.inputs)}; "
                f"it has {', '.join(self.inputs)}"
            )
        return found

    def check_complete(self, arrays: Mapping[str, Any]) -> None:
        """Raise `BadRequest` where an input is missing."""
        if len(arrays) != self.n_inputs:
            missing = [name for name in self.inputs if name not in arrays]
            raise BadRequest(f"the request lacks the input{'s' * (len(missing) > 1)} {', '.join(missing)}")

    def check_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Raise `BadRequest` where arrays that another version takes do not fit this one."""
        for name, array in arrays.items():
            wanted = self.input(name)
            if array.dtype != wanted.dtype:
                raise BadRequest(f"input {name!r}: expected {wanted.dtype}, found {array.dtype}")
            wanted.count(wanted.datatype, array.shape)
        self.check_complete(arrays)

    def check_output(self, name: str) -> None:
        """Raise `BadRequest` where the model has no such output."""
        if name not in self.outputs:
            raise BadRequest(
                f"the model has no output {name[:80]!r}{nearest(name[:80], self.outputs)}; "
                f"it has {', '.join(self.outputs)}"
            )
