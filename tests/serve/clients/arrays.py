"""What the clients send to the model of `test_clients.py`, which gives every input back; and how they compare."""

from __future__ import annotations

import numpy as np

RANDOM = np.random.default_rng(7)
SENT = {
    "f": RANDOM.standard_normal((3, 2)).astype(np.float32),
    "d": RANDOM.standard_normal(3),
    "h": RANDOM.standard_normal(3).astype(np.float16),
    "i": np.array([-(2**62), 0, 2**53 + 1]),
    "u": np.array([0, 7, 255], np.uint8),
    "b": np.array([True, False, True]),
    "s": np.array([b"plain", b"", "\u00e9\n\u4e16".encode()], dtype=np.object_),
}
DATATYPES = {"f": "FP32", "d": "FP64", "h": "FP16", "i": "INT64", "u": "UINT8", "b": "BOOL", "s": "BYTES"}


def check_same(found: np.ndarray, name: str) -> None:
    """Raise AssertionError where an output is not, bit by bit, the input that it came from."""
    sent = SENT[name]
    if name == "s":
        texts = [value if isinstance(value, bytes) else value.encode() for value in found.ravel()]
        assert texts == list(sent), (name, found)
        return
    assert found.dtype == sent.dtype and found.shape == sent.shape, (name, found.dtype, found.shape)
    assert np.array_equal(found, sent), (name, found, sent)
