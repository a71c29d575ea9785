"""No server at all but grpc.aio on uvloop: takes the bytes of a call and sends as many back as an answer has."""

import sys

import grpc
import grpc.aio
import uvloop

ANSWER = b"x" * 100


async def answer(_body, _context):
    return ANSWER


async def main() -> None:
    server = grpc.aio.server()
    handlers = {"ModelInfer": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),))
    server.add_insecure_port(f"127.0.0.1:{sys.argv[2]}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main())
