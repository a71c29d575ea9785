"""No server at all but uvicorn: reads the body and sends as many bytes back as an answer has."""

import sys

import uvicorn

ANSWER = b"x" * 400


async def application(scope, receive, send):
    if scope["type"] != "http":
        return
    more = True
    while more:
        more = (await receive()).get("more_body", False)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": ANSWER})


if __name__ == "__main__":
    uvicorn.run(application, port=int(sys.argv[2]), loop="uvloop", http="httptools", access_log=False, lifespan="off")
