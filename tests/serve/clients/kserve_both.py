"""KServe's clients over REST and gRPC: python kserve_both.py HTTP_URL GRPC_HOST:PORT"""

from __future__ import annotations

import asyncio
import sys

import httpx
from arrays import DATATYPES, SENT, check_same
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

http_url, grpc_url = sys.argv[1:]


def request(names: str, binary: bool, grpc: bool = False) -> InferRequest:
    inputs = []
    for name in names:
        tensor = InferInput(name, list(SENT[name].shape), DATATYPES[name])
        tensor.set_data_from_numpy(SENT[name], binary_data=binary)
        inputs.append(tensor)
    outputs = [RequestedOutput(f"{name}_out", parameters=None if grpc else {"binary_data": binary}) for name in names]
    return InferRequest("every", inputs, request_id="r1", request_outputs=outputs)


async def over_rest() -> None:
    async with InferenceRESTClient(RESTConfig(protocol="v2", retries=2)) as client:
        assert await client.is_server_live(http_url) and await client.is_server_ready(http_url)
        assert await client.is_model_ready(http_url, "every")
        answer = await client.infer(http_url, request("fdhiubs", binary=True), "every")
        assert answer.id == "r1"
        for output in answer.outputs:
            check_same(output.as_numpy(), output.name[0])
        try:
            await client.infer(http_url, request("fd", binary=False), "every")
            raise AssertionError("no 400")
        except httpx.HTTPStatusError as error:
            assert error.response.status_code == 400 and "lacks the input" in str(error), error


async def over_rest_as_json() -> None:
    async with InferenceRESTClient(RESTConfig(protocol="v2", retries=2)) as client:
        data = request("f", binary=False)
        data.model_name = "second"
        answer = await client.infer(http_url, data, "second")
        check_same(answer.outputs[0].as_numpy(), "f")


async def over_grpc() -> None:
    async with InferenceGRPCClient(grpc_url, retries=2) as client:
        assert await client.is_server_live() and await client.is_server_ready()
        assert await client.is_model_ready("every")
        answer = await client.infer(request("fdhiubs", binary=True, grpc=True))
        assert answer.id == "r1" and len(answer.outputs) == len(SENT)
        for output in answer.outputs:
            check_same(output.as_numpy(), output.name[0])
        data = request("f", binary=False, grpc=True)
        data.model_name = "second"
        check_same((await client.infer(data)).outputs[0].as_numpy(), "f")


async def main() -> None:
    await over_rest()
    await over_rest_as_json()
    await over_grpc()


asyncio.run(main())
print("all is well")
