"""MLServer: a runtime of one's own, in a folder with its settings; models run in the server's process."""

import json
import sys
from pathlib import Path

RUNTIME = """
import sys
sys.path.insert(0, {here!r})
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from onnx_model import open_model


class Onnx(MLModel):
    async def load(self) -> bool:
        self.session = open_model({path!r})
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        arrays = {{part.name: NumpyCodec.decode_input(part) for part in payload.inputs}}
        found = self.session.run(None, arrays)
        names = [entry.name for entry in self.session.get_outputs()]
        outputs = [NumpyCodec.encode_output(name, array) for name, array in zip(names, found)]
        return InferenceResponse(model_name=self.name, outputs=outputs)
"""


def main(path: str, port: int, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    ports = {"http_port": port, "grpc_port": port + 1000, "metrics_port": port + 2000}
    settings = {"host": "127.0.0.1", "parallel_workers": 0, "debug": False, "metrics_endpoint": None, **ports}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps({"name": "model", "implementation": "runtime.Onnx"}))
    (folder / "runtime.py").write_text(RUNTIME.format(here=str(Path(__file__).parent), path=path))
    sys.path.insert(0, str(folder))
    from mlserver.cli import main as start

    sys.argv = ["mlserver", "start", str(folder)]
    start()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
