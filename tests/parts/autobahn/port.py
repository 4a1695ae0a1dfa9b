"""Brings Autobahn's WebSocket cases to Python 3: port.py SITE_PACKAGES FOLDER writes the package FOLDER/cases.

PyPI's autobahntestsuite is Python 2. fissix does most of it; what is changed besides is names that moved, and text
against bytes. No case is altered. Inside the cases a payload is a latin-1 text, as Python 2's `str` was: `shim` turns
it at the edges.
"""

import pathlib
import re
import shutil
import subprocess
import sys

# autobahn's own new names, modules that `shim` stands in for, and a case that upstream does not run either.
RENAMED = {
    "import copy, os, pkg_resources, hashlib, binascii": "import copy, os, hashlib, binascii\nfrom shim import pkg_resources",
    "from autobahn.websocket.utf8validator import Utf8Validator": "from shim import Utf8Validator",
    "from .case9_9_1 import *": "",
    "requestNoContextTakeover": "request_no_context_takeover",
    "requestMaxWindowBits": "request_max_window_bits",
    "acceptNoContextTakeover": "accept_no_context_takeover",
    "acceptMaxWindowBits": "accept_max_window_bits",
}


def ported(name, text):
    text = re.sub(r"^import binascii$", "from shim import binascii", text, flags=re.M)
    for old, new in RENAMED.items():
        text = text.replace(old, new)
    text = re.sub(r'(chr\([ij]\)\.encode\("utf-?8"\))', r'\1.decode("latin-1")', text)
    text = re.sub(r"\(object, ?Case, ?\)", "(Case,)", text)
    # A literal of Python 2 is its bytes.
    text = re.sub(r"[^\x00-\x7f]+", lambda found: "".join(f"\\x{byte:02x}" for byte in found[0].encode()), text)
    if name == "case10_1_1.py":
        # The division of whole numbers.
        text = re.sub(r"(?<=[\w)]) / (?=[\w(])|(?<=\w)/(?=\w)", "//", text)
    return text


def main():
    suite = pathlib.Path(sys.argv[1]) / "autobahntestsuite"
    cases = pathlib.Path(sys.argv[2]) / "cases"
    shutil.rmtree(cases, ignore_errors=True)
    shutil.copytree(suite / "case", cases, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(suite / "testdata", cases / "testdata")
    shutil.copy(suite / "caseset.py", cases)
    command = [sys.executable, "-W", "ignore", "-m", "fissix", "-w", "-n", "--no-diffs", str(cases)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    for path in cases.glob("*.py"):
        path.write_text(ported(path.name, path.read_text("utf-8")), "utf-8")


main()
