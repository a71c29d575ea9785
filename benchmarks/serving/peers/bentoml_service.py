"""BentoML: a service with one method that takes and gives arrays."""

import os
import sys
from pathlib import Path

import bentoml
import numpy as np
from onnx_model import open_model


@bentoml.service(workers=1, traffic={"timeout": 30, "max_concurrency": 1000}, logging={"access": {"enabled": False}})
class Onnx:
    def __init__(self) -> None:
        self.session = open_model(os.environ["BENCH_MODEL"])

    @bentoml.api
    def infer(self, x: np.ndarray) -> np.ndarray:
        return self.session.run(None, {"x": x.astype(np.float32)})[0]


if __name__ == "__main__":
    os.environ["BENCH_MODEL"] = sys.argv[1]
    os.chdir(Path(__file__).resolve().parent)
    from bentoml_cli.cli import cli

    cli(["serve", "bentoml_service:Onnx", "--port", sys.argv[2], "--host", "127.0.0.1"])
