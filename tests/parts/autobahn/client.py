"""Autobahn's WebSocket cases as a client: client.py FOLDER URL [CASE...], FOLDER holding the package `cases` of port.py.

Prints one JSON object: a case's number to {behaviour, close, result}. OK, INFORMATIONAL, NON-STRICT and UNIMPLEMENTED
are Autobahn's words for what is fine, FAILED for what is not.
"""

import json
import os
import re
import sys

sys.path.insert(0, sys.argv[1])
os.environ["AUTOBAHN_CASES"] = os.path.join(sys.argv[1], "cases")

from twisted.internet import reactor  # noqa: E402, the path comes first
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol, connectWS  # noqa: E402
from autobahn.websocket.protocol import WebSocketProtocol  # noqa: E402
from shim import to_bytes  # noqa: E402
import cases  # noqa: E402
from cases.case import Case  # noqa: E402
from cases.caseset import CaseSet  # noqa: E402

# Limits and compression measure an endpoint, not what is between.
LEFT_OUT = re.compile(r"^(9|12|13)\.")
AT_ONCE = 4
# How long the other side may take to answer a close, and to drop the connection; a second, by default, is little on
# a busy machine.
PATIENCE = 20


def as_text(value):
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("latin-1")
    if isinstance(value, (list, tuple)):
        return [as_text(one) for one in value]
    return value


Case.compare = lambda self, one, other: as_text(one) == as_text(other)


class Protocol(WebSocketClientProtocol):
    """What a case expects of autobahn's protocol, with texts for payloads."""

    def connectionMade(self):
        self.createWirelog = True
        self.createStats = True
        self.connectionWasOpen = False
        self.rxFrameStats = {}
        self.txFrameStats = {}
        self.runCase = self.case(self)
        super().connectionMade()

    def enableWirelog(self, enabled):
        self.createWirelog = enabled

    def later(self, delay, call):
        reactor.callLater(delay, lambda: None if self.state == WebSocketProtocol.STATE_CLOSED else call())

    def continueLater(self, delay, call, tag=None):
        self.later(delay, call)

    def killAfter(self, delay):
        self.later(delay, self._fail_connection)

    def closeAfter(self, delay):
        self.later(delay, self.sendClose)

    def sendFrame(self, opcode, payload="", **options):
        return super().sendFrame(opcode, payload=to_bytes(payload), **options)

    def sendMessage(self, payload, isBinary=False, **options):
        return super().sendMessage(to_bytes(payload), isBinary, **options)

    def sendMessageFrameData(self, payload, sync=False):
        return super().sendMessageFrameData(to_bytes(payload), sync)

    def sendCloseFrame(self, code=None, reasonUtf8=None, isReply=False):
        return super().sendCloseFrame(code, None if reasonUtf8 is None else to_bytes(reasonUtf8), isReply)

    def logRxFrame(self, header, payload):
        self.rxFrameStats[header.opcode] = self.rxFrameStats.get(header.opcode, 0) + 1

    def logTxFrame(self, header, *rest):
        self.txFrameStats[header.opcode] = self.txFrameStats.get(header.opcode, 0) + 1

    def onOpen(self):
        self.connectionWasOpen = True
        self.runCase.onOpen()

    def onMessage(self, message, binary):
        self.runCase.onMessage(message.decode("latin-1"), binary)

    def onPing(self, payload):
        self.runCase.onPing(payload.decode("latin-1"))
        super().onPing(payload)

    def onPong(self, payload):
        self.runCase.onPong(payload.decode("latin-1"))

    def onClose(self, clean, code, reason):
        self.runCase.onClose(clean, code, reason)

    def connectionLost(self, reason):
        super().connectionLost(reason)
        self.runCase.onConnectionLost(self.failedByMe)
        run = self.runCase
        done(self.number, run.behavior, run.behaviorClose, run.result)


class Factory(WebSocketClientFactory):
    noisy = False

    def buildProtocol(self, _address):
        protocol = Protocol()
        protocol.factory, protocol.number = self, self.number
        protocol.case = suite.CasesById[self.number]
        return protocol

    def clientConnectionFailed(self, _connector, reason):
        done(self.number, "FAILED", "FAILED", str(reason.value))


suite = CaseSet(cases.CaseSetname, cases.CaseBasename, cases.Cases, cases.CaseCategories, cases.CaseSubCategories)
wanted = sys.argv[3:] or (number for number in suite.CasesById if not LEFT_OUT.match(number))
waiting = sorted(wanted, key=suite.caseIdtoIdTuple)
count = len(waiting)
results = {}


def start():
    if waiting:
        factory = Factory(sys.argv[2])
        factory.number = waiting.pop(0)
        factory.logFrames, factory.logOctets = True, False
        factory.setProtocolOptions(
            failByDrop=False,
            openHandshakeTimeout=PATIENCE,
            closeHandshakeTimeout=PATIENCE,
            serverConnectionDropTimeout=PATIENCE,
        )
        connectWS(factory)


def done(number, behaviour, close, result):
    results[number] = {"behaviour": behaviour, "close": close, "result": result}
    if len(results) == count:
        reactor.stop()
    else:
        reactor.callLater(0, start)


for _ in range(AT_ONCE):
    reactor.callLater(0, start)
reactor.run()
json.dump(results, sys.stdout)
