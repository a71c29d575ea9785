"""tritonclient over HTTP: python triton_http.py HOST:PORT ADMIN_KEY"""

from __future__ import annotations

import sys

import tritonclient.http as triton
from arrays import DATATYPES, SENT, check_same
from tritonclient.utils import InferenceServerException

url, admin_key = sys.argv[1:]
client = triton.InferenceServerClient(url, concurrency=4)
ADMIN = {"Authorization": f"Bearer {admin_key}"}


def inputs(binary: bool) -> list[triton.InferInput]:
    """Make the inputs; FP16 has no JSON form in this client, so that it is binary always."""
    made = []
    for name, array in SENT.items():
        tensor = triton.InferInput(name, list(array.shape), DATATYPES[name])
        tensor.set_data_from_numpy(array, binary_data=binary or name == "h")
        made.append(tensor)
    return made


def outputs(binary: bool) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(f"{name}_out", binary_data=binary or name == "h") for name in SENT]


def fails(call: object, status: str, says: str) -> None:
    try:
        call()  # type: ignore[operator]
    except InferenceServerException as error:
        assert error.status() == status and says in error.message(), (error.status(), error.message())
        return
    raise AssertionError(f"no {status}")


assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("every")
assert client.is_model_ready("every", "1") and not client.is_model_ready("none")
assert "model_repository" in client.get_server_metadata()["extensions"]
described = {tensor["name"]: tensor for tensor in client.get_model_metadata("every")["inputs"]}
assert {name: tensor["datatype"] for name, tensor in described.items()} == DATATYPES
assert described["f"]["shape"] == [-1, 2]

for binary_in in (True, False):
    for binary_out in (True, False):
        result = client.infer("every", inputs(binary_in), outputs=outputs(binary_out), request_id="r1")
        assert result.get_response()["id"] == "r1" and result.get_response()["model_version"] == "1"
        for name in SENT:
            check_same(result.as_numpy(f"{name}_out"), name)

everything = client.infer("every", inputs(True), model_version="1")
assert len(everything.get_response()["outputs"]) == len(SENT)
for packing in ("gzip", "deflate"):
    packed = client.infer("every", inputs(True), request_compression_algorithm=packing)
    check_same(packed.as_numpy("f_out"), "f")
pending = [client.async_infer("every", inputs(True)) for _ in range(8)]
for waiting in pending:
    check_same(waiting.get_result().as_numpy("s_out"), "s")

fails(lambda: client.infer("none", inputs(True)), "404", "none")
fails(lambda: client.infer("every", inputs(True)[:2]), "400", "lacks the input")
fails(lambda: client.infer("every", inputs(True), outputs=[triton.InferRequestedOutput("x")]), "400", "no output 'x'")
fails(lambda: client.unload_model("every"), "401", "key")

index = {entry["name"]: entry for entry in client.get_model_repository_index(headers=ADMIN)}
assert index["every"]["state"] == "READY" and index["every"]["version"] == "1"
client.unload_model("second", headers=ADMIN)
assert not client.is_model_ready("second")
client.load_model("second", headers=ADMIN)
assert client.is_model_ready("second")
print("all is well")
