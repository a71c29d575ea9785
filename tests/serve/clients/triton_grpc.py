"""tritonclient over gRPC: python triton_grpc.py HOST:PORT ADMIN_KEY"""

from __future__ import annotations

import queue
import sys

import tritonclient.grpc as triton
from arrays import DATATYPES, SENT, check_same
from tritonclient.utils import InferenceServerException

url, admin_key = sys.argv[1:]
client = triton.InferenceServerClient(url)
ADMIN = {"authorization": f"Bearer {admin_key}"}


def inputs() -> list[triton.InferInput]:
    made = []
    for name, array in SENT.items():
        tensor = triton.InferInput(name, list(array.shape), DATATYPES[name])
        tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


def fails(call: object, status: str, says: str) -> None:
    try:
        call()  # type: ignore[operator]
    except InferenceServerException as error:
        assert error.status() == f"StatusCode.{status}" and says in error.message(), (error.status(), error.message())
        return
    raise AssertionError(f"no {status}")


assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("every")
assert client.is_model_ready("every", "1") and not client.is_model_ready("none")
assert client.get_server_metadata().name == "tightship"
described = {tensor.name: tensor for tensor in client.get_model_metadata("every").inputs}
assert {name: tensor.datatype for name, tensor in described.items()} == DATATYPES
assert list(described["f"].shape) == [-1, 2]

wanted = [triton.InferRequestedOutput(f"{name}_out") for name in SENT]
for chosen in (wanted, None):
    result = client.infer("every", inputs(), outputs=chosen, request_id="r1", client_timeout=20)
    assert result.get_response().id == "r1" and result.get_response().model_version == "1"
    for name in SENT:
        check_same(result.as_numpy(f"{name}_out"), name)
check_same(client.infer("every", inputs(), compression_algorithm="gzip").as_numpy("f_out"), "f")

answers: queue.Queue[tuple[object, object]] = queue.Queue()
for _ in range(8):
    client.async_infer("every", inputs(), lambda result, error: answers.put((result, error)))
for _ in range(8):
    found, error = answers.get(timeout=20)
    assert error is None, error
    check_same(found.as_numpy("s_out"), "s")  # type: ignore[attr-defined]

fails(lambda: client.infer("none", inputs()), "NOT_FOUND", "none")
fails(lambda: client.infer("every", inputs()[:2]), "INVALID_ARGUMENT", "lacks the input")
fails(lambda: client.unload_model("every"), "UNAUTHENTICATED", "key")

index = {entry.name: entry for entry in client.get_model_repository_index(headers=ADMIN).models}
assert index["every"].state == "READY" and index["every"].version == "1"
client.unload_model("second", headers=ADMIN)
assert not client.is_model_ready("second")
client.load_model("second", headers=ADMIN)
assert client.is_model_ready("second")
print("all is well")
