"""A WebSocket server on Python's `websockets` that says every message back. Prints its port."""

import asyncio

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def say_back(connection):
    try:
        async for message in connection:
            await connection.send(message)
    except ConnectionClosed:
        # Closed with a code of the caller's own.
        pass


async def main():
    async with serve(say_back, "127.0.0.1", 0) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


asyncio.run(main())
