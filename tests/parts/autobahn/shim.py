"""Python 2's `str` at the edges of Autobahn's cases: a payload is a latin-1 text inside, bytes outside."""

import binascii as _binascii
import os

from autobahn.websocket.utf8validator import Utf8Validator as _Utf8Validator


def to_bytes(text):
    return text.encode("latin-1") if isinstance(text, str) else bytes(text)


class binascii:  # noqa: N801, a module's name
    @staticmethod
    def b2a_hex(text):
        return _binascii.b2a_hex(to_bytes(text)).decode()

    @staticmethod
    def a2b_hex(text):
        return _binascii.a2b_hex(text).decode("latin-1")

    hexlify, unhexlify = b2a_hex, a2b_hex


class Utf8Validator(_Utf8Validator):
    def validate(self, text):
        return super().validate(to_bytes(text))


class pkg_resources:  # noqa: N801, a module's name
    @staticmethod
    def resource_filename(_package, name):
        return os.path.join(os.environ["AUTOBAHN_CASES"], name)
