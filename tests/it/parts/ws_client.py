"""A conversation by Python's `websockets`: text, bytes, a ping, a close with a code. ws_client.py URL"""

import asyncio
import sys

from websockets.asyncio.client import connect


async def main():
    async with connect(sys.argv[1], open_timeout=20, close_timeout=20, proxy=None) as connection:
        heard = []
        for message in ("hello", b"x" * 300_000):
            await connection.send(message)
            back = await connection.recv()
            assert back == message
            heard.append(f"{'text' if isinstance(back, str) else 'bytes'} {len(back)}")
        await (await connection.ping("are you there"))
        heard.append("pong are you there")
        await connection.close(4001, "done")
        print("ok", ", ".join(heard), connection.close_code)


asyncio.run(main())
