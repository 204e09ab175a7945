"""`python -m tests.load.inbox`: a fast receiver of webhooks, and a dead one, in a process of its own.

Says its port; ends when stdin does, with the id, the object and the time of everything that came to /fast. What comes
to /dead is read and never answered.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time


async def _main() -> None:
    came: list[tuple[str, str, float]] = []
    asleep: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.readline():
            headers: dict[str, str] = {}
            while line := (await reader.readline()).decode().strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            body = json.loads(await reader.readexactly(int(headers["content-length"])))
            if b"/dead" in request:
                asleep.append(writer)  # or it would be closed as garbage
                return
            came.append((headers["webhook-id"], body["data"]["id"], time.time()))
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print(json.dumps(came))
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_main())
