"""ML programs (MIL), the language of Core ML packages since iOS 15, read into ONNX graphs.

The program is read from its protobuf message and its weights from the blob file by numpy, not by coremltools' loader,
which folds constants while it reads, so that a small hostile file could ask for any amount of memory.
"""

from __future__ import annotations

from tightship.formats.mil.program import OPSET, read_program

__all__ = ["OPSET", "read_program"]
