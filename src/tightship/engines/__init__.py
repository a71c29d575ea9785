"""The table of engines. Adding an engine is one file here and its row.

`open_session` is the one way from something loadable to a Session.
"""

from __future__ import annotations

from pathlib import Path

from tightship.core.model import Model
from tightship.core.session import Session
from tightship.core.table import Table
from tightship.core.target import Target
from tightship.engines.coreml import CoreMlEngine
from tightship.engines.engine import Engine
from tightship.engines.executorch import ExecuTorchEngine
from tightship.engines.litert import LiteRt
from tightship.engines.onnxruntime import OnnxRuntime
from tightship.engines.openvino import OpenVino
from tightship.engines.tensorflow import TensorFlow
from tightship.engines.torch import Torch

__all__ = ["ENGINES", "Engine", "open_session"]

ENGINES: Table[Engine] = Table(
    "engine",
    {
        engine.name: engine
        for engine in (OnnxRuntime(), OpenVino(), Torch(), TensorFlow(), LiteRt(), ExecuTorchEngine(), CoreMlEngine())
    },
)


def open_session(source: Model | Path | bytes, target: Target) -> Session:
    """Load `source` (a Model, a model file or its bytes) on `target`, ready to run.

    Raises `MissingExtra` where the engine is not installed and `EngineError` where it refuses the model.
    """
    return ENGINES[target.engine].open(source, target)
