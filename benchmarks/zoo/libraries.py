"""Imported once by the process that cells are forked from: the libraries alone take longer than most conversions."""

from __future__ import annotations

import contextlib
import importlib
import os

from tightship.core.tensorflow_runtime import environment, quiet_tensorflow

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
with environment(KERAS_BACKEND="tensorflow"), quiet_tensorflow():
    for _name in (
        "torch", "onnx_ir", "onnxscript", "onnxruntime", "openvino", "tensorflow", "keras", "executorch.exir",
        "litert_torch", "coremltools",
    ):  # fmt: skip
        with contextlib.suppress(ImportError):
            importlib.import_module(_name)
