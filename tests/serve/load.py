"""Load from another process: requests over kept connections until told to stop, and what became of them.

`python load.py PORT MODEL BODY_FILE CONNECTIONS` answers to a line on its standard input with one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Load:
    """A process that asks, until `stop`."""

    process: subprocess.Popen[str]

    @staticmethod
    def start(port: int, model: str, body: bytes, folder: Path, connections: int = 4) -> Load:
        (folder / "body.json").write_bytes(body)
        words = [sys.executable, __file__, str(port), model, str(folder / "body.json"), str(connections)]
        return Load(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))

    def stop(self) -> dict[str, Any]:
        """Return how many requests each version answered, and the words of those that failed."""
        out, _ = self.process.communicate("stop\n", timeout=60)
        found: dict[str, Any] = json.loads(out)
        return found


class _Asking:
    def __init__(self, port: int, model: str, body: bytes) -> None:
        self.port = port
        head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        self.request = head.encode() + body
        self.answered: Counter[str] = Counter()
        self.failed: list[str] = []
        self.ended = False

    async def ask(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        while not self.ended:
            try:
                writer.write(self.request)
                status = (await reader.readline()).decode()
                if not status:
                    raise ConnectionError("the connection was closed before the answer")
                length = 0
                while (line := await reader.readline()) not in (b"\r\n", b""):
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                body = await reader.readexactly(length)
                if " 200 " in status:
                    self.answered[json.loads(body)["model_version"]] += 1
                else:
                    self.failed.append(f"{status.strip()} {body[:200].decode()}")
            except (OSError, asyncio.IncompleteReadError, ValueError, KeyError) as error:
                self.failed.append(repr(error))
                writer.close()
                if self.ended:
                    return
                await asyncio.sleep(0.01)
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.close()


async def main(port: int, model: str, body: bytes, connections: int) -> None:
    asking = _Asking(port, model, body)
    tasks = [asyncio.create_task(asking.ask()) for _ in range(connections)]
    await asyncio.to_thread(sys.stdin.readline)
    asking.ended = True
    await asyncio.gather(*tasks)
    print(json.dumps({"answered": asking.answered, "n_failed": len(asking.failed), "failed": asking.failed[:20]}))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]).read_bytes(), int(sys.argv[4])))
