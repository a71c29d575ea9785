"""KServe's model server: a class with `predict`, protocol v2."""

import sys

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from onnx_model import open_model


class Onnx(Model):
    def __init__(self, path: str) -> None:
        super().__init__("model")
        self.session = open_model(path)
        self.ready = True

    async def predict(self, payload: InferRequest, headers=None, response_headers=None) -> InferResponse:
        arrays = {part.name: part.as_numpy() for part in payload.inputs}
        outputs = []
        for entry, array in zip(self.session.get_outputs(), self.session.run(None, arrays), strict=True):
            output = InferOutput(entry.name, list(array.shape), "FP32")
            output.set_data_from_numpy(array, binary_data=False)
            outputs.append(output)
        return InferResponse(payload.id or "1", "model", outputs)


if __name__ == "__main__":
    ModelServer(http_port=int(sys.argv[2]), enable_grpc=False, workers=1, access_log_format=None).start(
        [Onnx(sys.argv[1])]
    )
