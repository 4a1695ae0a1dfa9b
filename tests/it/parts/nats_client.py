"""NATS's own client: the server greets first; then a request and its answer, and a hundred messages in order."""

import asyncio
import sys

import nats


async def main():
    client = await nats.connect(f"nats://{sys.argv[1]}", allow_reconnect=False, connect_timeout=20)

    async def answer(message):
        await message.respond(message.data[::-1])

    await client.subscribe("reverse", cb=answer)
    reply = await client.request("reverse", b"weft", timeout=20)
    assert reply.data == b"tfew", reply.data
    subscription = await client.subscribe("many")
    for number in range(100):
        await client.publish("many", b"%d" % number * 100)
    numbers = [(await subscription.next_msg(timeout=20)).data[:1] for _ in range(100)]
    await client.drain()
    print("ok", reply.data.decode(), len(numbers))


asyncio.run(main())
