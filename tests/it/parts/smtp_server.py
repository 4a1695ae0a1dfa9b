"""An SMTP server that takes every mail and tells in its answer how long it was. smtp_server.py HOST PORT"""

import asyncio
import sys

from aiosmtpd.smtp import SMTP


class Mailbox:
    async def handle_DATA(self, _server, _session, envelope):
        return f"250 got {len(envelope.content)} bytes"


async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(Mailbox(), hostname="mail.test"), sys.argv[1], int(sys.argv[2]))
    await server.serve_forever()


asyncio.run(main())
