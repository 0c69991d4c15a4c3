"""What the service bears: many clients, bad ones among them, and its end in the middle of the work.

    .venv/bin/python benchmarks/serve_soak.py [--clients 1 4 16 64 256] [--seconds 360]

Starts the service on loopback with the shipped model. For each number of clients, all of them post
phantom slices, every eighth a volume of 16, for the given time, while three others misbehave: one
sends uploads byte by byte, one never reads its answers, one hangs up. Prints latencies of what is
accepted, refusals, and the memory of the service with its decoders. Then it tells the service to
stop under load (SIGTERM) and counts the answers that are lost; and kills it (SIGKILL) and starts it
again. Exit code 1: a server error, or an answer that is lost.
"""

import argparse
import collections
import re
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
from serve_load import PROJECT, encode, phantoms, serving

FORM = b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.tif"\r\n\r\n'


class Load:
    """Clients that post until they are told to stop, and what became of their requests."""

    def __init__(self, address: str, files: list[bytes], clients: int) -> None:
        self.address, self.files = httpx.URL(address), files
        self.latencies = {"slice": [], "volume": []}
        self.answers: collections.Counter[str] = collections.Counter()
        self.stopped = threading.Event()
        wanted = [(self._post, number) for number in range(clients)]
        wanted += [(self._drip, 0), (self._read_nothing, 0), (self._hang_up, 0)]
        self.threads = [threading.Thread(target=work, args=[n], daemon=True) for work, n in wanted]
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        """End all clients."""
        self.stopped.set()
        for thread in self.threads:
            thread.join(300)

    def _post(self, number: int) -> None:
        kind, path = ("volume", "/segment/volume") if number % 8 == 7 else ("slice", "/segment")
        uploads = [("files" if kind == "volume" else "file", file) for file in self.files]
        with httpx.Client(base_url=self.address, timeout=300) as client:
            while not self.stopped.is_set():
                started = time.monotonic()
                try:
                    answer = client.post(path, files=uploads if kind == "volume" else uploads[:1])
                except httpx.ConnectError:
                    self.answers["refused connection"] += 1
                    time.sleep(0.5)
                    continue
                except httpx.TransportError:  # it was sent, and is not answered
                    self.answers["lost"] += 1
                    continue
                self.answers[str(answer.status_code)] += 1
                if answer.status_code == 200:
                    self.latencies[kind].append(time.monotonic() - started)
                else:
                    self.stopped.wait(min(5, float(answer.headers.get("Retry-After", 1))))

    def _connect(self) -> socket.socket | None:
        try:
            return socket.create_connection((self.address.host, self.address.port), 5)
        except OSError:
            self.stopped.wait(1)
            return None

    def _upload(self, line: socket.socket) -> None:
        body = PART + self.files[0] + b"\r\n--b--\r\n"
        head = b"POST /segment?output=image HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: "
        line.sendall(head + str(len(body)).encode() + b"\r\n" + FORM + body)

    def _drip(self, _: int) -> None:
        while not self.stopped.is_set():
            if (line := self._connect()) is not None:
                with line:
                    try:
                        line.sendall(
                            b"POST /segment HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n"
                        )
                        line.sendall(FORM)
                        while not self.stopped.wait(1):
                            line.sendall(b"-")
                    except OSError:
                        self.answers["slow writer cut off"] += 1

    def _read_nothing(self, _: int) -> None:
        while not self.stopped.is_set():
            if (line := self._connect()) is not None:
                with line:
                    try:
                        self._upload(line)
                    except OSError:
                        continue
                    self.stopped.wait(10)

    def _hang_up(self, _: int) -> None:
        while not self.stopped.wait(0.2):
            if (line := self._connect()) is not None:
                with line:
                    try:
                        self._upload(line)
                    except OSError:
                        continue


def memory(pid: int) -> float:
    """Return MB of a process and its children, shared pages counted once (PSS; on Linux)."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    total = 0
    for one in (pid, *children):
        with suppress(OSError):  # a decoder that has just ended
            pss = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{one}/smaps_rollup").read_text(), re.M)
            total += int(pss[1])
    return total / 1024


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = PROJECT / "data/06_models/pretrained/unet_efficientnet"
    parser.add_argument("--checkpoint", type=Path, default=default)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    parser.add_argument("--seconds", type=float, default=360)
    options = parser.parse_args()
    files = encode(phantoms())
    failed = False
    with serving(options.checkpoint) as (address, server):
        print(f"memory at the start: {memory(server.pid):.0f} MB")
        for clients in options.clients:
            load, most = Load(address, files, clients), 0.0
            end = time.monotonic() + options.seconds
            while time.monotonic() < end:
                most = max(most, memory(server.pid))
                time.sleep(0.5)
            load.stop()
            print(f"{clients} clients: {dict(load.answers)}, memory at most {most:.0f} MB")
            for kind, seconds in load.latencies.items():
                if seconds:
                    p50, p99 = np.percentile(seconds, [50, 99])
                    print(f"  {kind}: {len(seconds)}, p50 {p50:.2f} s, p99 {p99:.2f} s")
            failed |= any(name.startswith("50") and name != "503" for name in load.answers)
        time.sleep(5)
        print(f"memory when nothing is asked: {memory(server.pid):.0f} MB")
        load = Load(address, files, 8)
        time.sleep(5)
        server.terminate()
        started = time.monotonic()
        server.wait(300)
        print(f"SIGTERM under load: gone after {time.monotonic() - started:.1f} s")
        load.stop()
        print(f"  {dict(load.answers)}")
        failed |= load.answers["lost"] > 0
    with serving(options.checkpoint) as (address, server):
        server.kill()
        server.wait()
    started = time.monotonic()
    with serving(options.checkpoint) as (address, _):
        print(f"ready {time.monotonic() - started:.1f} s after SIGKILL and a new start")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
