"""LitServe: a LitAPI, one worker."""

import sys

import litserve
from onnx_model import answer, feeds, open_model


class Onnx(litserve.LitAPI):
    def setup(self, device) -> None:
        self.session = open_model(sys.argv[1])

    def decode_request(self, request):
        return feeds(request)

    def predict(self, arrays):
        return self.session.run(None, arrays)

    def encode_response(self, outputs):
        return answer(self.session, outputs)


if __name__ == "__main__":
    server = litserve.LitServer(Onnx(), accelerator="cpu", workers_per_device=1)
    server.run(port=int(sys.argv[2]), host="127.0.0.1", generate_client_file=False, log_level="error", access_log=False)
