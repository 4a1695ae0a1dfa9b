"""A Thrift server, binary protocol: `reverse` a text, `fail` with the exception the interface has. thrift_server.py HOST PORT"""

import os
import sys

import thriftpy2
from thriftpy2.rpc import make_server

echo = thriftpy2.load(os.path.join(os.path.dirname(__file__), "echo.thrift"), module_name="echo_thrift")


class Echo:
    def reverse(self, text):
        return text[::-1]

    def fail(self, why):
        raise echo.Failed(why=why)


make_server(echo.Echo, Echo(), sys.argv[1], int(sys.argv[2])).serve()
