"""FastAPI with pydantic models of the request and the answer."""

import sys

import uvicorn
from fastapi import FastAPI
from onnx_model import answer, feeds, open_model
from pydantic import BaseModel

application = FastAPI()
session = open_model(sys.argv[1])


class Tensor(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class Request(BaseModel):
    inputs: list[Tensor]


class Answer(BaseModel):
    model_name: str
    outputs: list[Tensor]


@application.post("/v2/models/model/infer")
async def infer(request: Request) -> Answer:
    arrays = feeds(request.model_dump())
    return Answer(**answer(session, session.run(None, arrays)))


if __name__ == "__main__":
    uvicorn.run(application, port=int(sys.argv[2]), loop="uvloop", http="httptools", access_log=False)
