"""A Thrift client, binary protocol: calls on one connection, one of them with a long text, one that fails as declared."""

import os
import sys

import thriftpy2
from thriftpy2.rpc import make_client

echo = thriftpy2.load(os.path.join(os.path.dirname(__file__), "echo.thrift"), module_name="echo_thrift")
host, port = sys.argv[1].rsplit(":", 1)
client = make_client(echo.Echo, host, int(port), timeout=20_000)
long = client.reverse("x" * 100_000 + "y")
assert long[0] == "y" and len(long) == 100_001
try:
    client.fail("told")
except echo.Failed as failed:
    print("ok", client.reverse("weft"), failed.why)
