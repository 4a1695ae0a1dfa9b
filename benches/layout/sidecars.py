"""Sidecars in the roles of the side-by-side benchmark, started one behind the other: for `record` and `train`."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
CONTENDER = HERE.parent / "contender"
IDENTITY = "spiffe://cluster.local/ns/default/sa/app"
# Seconds until something is called stuck.
PATIENCE = 60


def free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def spawn(command: list, log: Path, port: int, **said) -> subprocess.Popen:
    """A process that takes connections at `port`; `said` goes to its environment."""
    environment = os.environ | {name: str(value) for name, value in said.items()}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=log.open("w"))
    end = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return process
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                sys.exit(f"{command} does not start:\n{log.read_text()}")
            time.sleep(0.1)


def certificates(binary: Path, folder: Path) -> None:
    subprocess.run([binary, "certs", "dev", "--dir", folder, "app"], check=True, stdout=subprocess.DEVNULL)


class Chain:
    """Sidecars of these roles, the first towards the application, each of the others towards the one before."""

    def __init__(self, binary: Path, folder: Path, roles: tuple[str, ...], app: int, protocol: str, tool=lambda _: []):
        self.processes, self.folders = [], []
        for role in roles:
            at = folder / f"{'-'.join(roles)}-{role}-{len(list(folder.iterdir()))}"
            at.mkdir()
            self.port, admin = free(), free()
            self.folders.append(at)
            self.processes.append(spawn(
                [*tool(at), CONTENDER], at / "log", admin, WEFT_BIN=binary, BENCH_ROLE=role, BENCH_PROTO=protocol,
                BENCH_THREADS=1, BENCH_ROUTES=1, BENCH_LISTEN=f"127.0.0.1:{self.port}", BENCH_ADMIN=admin,
                BENCH_TARGET=f"127.0.0.1:{app}", BENCH_DIR=at, BENCH_CERT=folder / "app.crt",
                BENCH_KEY=folder / "app.key", BENCH_CA=folder / "ca.crt", BENCH_PEER_ID=IDENTITY,
            ))  # fmt: skip
            app = self.port

    def stop(self) -> None:
        """Asks them to leave, and waits: callgrind and LLVM write at the exit."""
        for process in reversed(self.processes):
            process.terminate()
            process.wait(PATIENCE)
