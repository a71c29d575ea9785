"""Ray Serve: one replica behind its proxy."""

import sys
import time

import ray
from onnx_model import answer, feeds, open_model
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=1, max_ongoing_requests=64)
class Onnx:
    def __init__(self, path: str) -> None:
        self.session = open_model(path)

    async def __call__(self, request: Request) -> dict:
        arrays = feeds(await request.json())
        return answer(self.session, self.session.run(None, arrays))


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200_000_000)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[2])})
    serve.run(Onnx.bind(sys.argv[1]), route_prefix="/")
    while True:
        time.sleep(3600)
