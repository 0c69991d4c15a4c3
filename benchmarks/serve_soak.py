"""What the service bears: many clients, bad ones among them, and its end in the middle of the work.

    .venv/bin/python benchmarks/serve_soak.py [--clients 1 4 16 64 256] [--seconds 2400]

Starts the service on loopback with the shipped model. For each number of clients, all of them post
phantom slices, the fourth of every eight a volume of 64, while three others misbehave: one sends
uploads byte by byte, one never reads its answers, one hangs up. Then it tells the service to stop
under load (SIGTERM) and counts the answers that are lost; and kills it (SIGKILL) and starts it
again. Prints a table for docs/trust.md. Beside the three starts of the service it takes the given
time, an equal part for each number of clients and for the end. Exit code 1: a server error, or an
answer that is lost.
"""

import argparse
import collections
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
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
        self.latencies: dict[str, list[float]] = {"slice": [], "volume": []}
        self.answers: collections.Counter[str] = collections.Counter()
        self.lost: list[float] = []  # when each request was sent that is not answered
        self.stopped = threading.Event()
        bad = (self._drip, self._read_nothing, self._upload)  # the last one hangs up
        wanted = [(self._post, number) for number in range(clients)]
        wanted += [(self._misbehave, how) for how in bad]
        self.threads = [threading.Thread(target=work, args=[n], daemon=True) for work, n in wanted]
        for thread in self.threads:
            thread.start()

    def stop(self, end: float) -> None:
        """End all clients; what is not answered at a time of ``time.monotonic`` is given up."""
        self.stopped.set()
        for thread in self.threads:
            thread.join(max(0, end - time.monotonic()))
        if waiting := sum(thread.is_alive() for thread in self.threads):
            self.answers["not answered in time"] += waiting

    def _post(self, number: int) -> None:
        kind, path = ("volume", "/segment/volume") if number % 8 == 3 else ("slice", "/segment")
        uploads = [("files", file) for file in 4 * self.files]
        if kind == "slice":
            uploads = [("file", self.files[0])]
        with httpx.Client(base_url=self.address, timeout=300) as client:
            while not self.stopped.is_set():
                started = time.monotonic()
                try:
                    answer = client.post(path, files=uploads)
                except httpx.ConnectError:
                    self.answers["refused connection"] += 1
                    self.stopped.wait(0.5)
                    continue
                except httpx.TransportError:  # it was sent, and is not answered
                    self.lost.append(started)
                    continue
                self.answers[str(answer.status_code)] += 1
                if answer.status_code == 200:
                    self.latencies[kind].append(time.monotonic() - started)
                else:
                    self.stopped.wait(min(5, float(answer.headers.get("Retry-After", 1))))

    def _misbehave(self, on: Callable[[socket.socket], None]) -> None:
        place = (self.address.host, self.address.port)
        while not self.stopped.wait(0.2):
            with suppress(OSError), socket.create_connection(place, 5) as line:
                on(line)

    def _upload(self, line: socket.socket) -> None:
        body = PART + self.files[0] + b"\r\n--b--\r\n"
        head = b"POST /segment HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: "
        line.sendall(head + str(len(body)).encode() + b"\r\n" + FORM + body)

    def _read_nothing(self, line: socket.socket) -> None:
        self._upload(line)
        self.stopped.wait(10)

    def _drip(self, line: socket.socket) -> None:
        line.sendall(b"POST /segment HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n" + FORM)
        try:
            while not self.stopped.wait(1):
                line.sendall(b"-")
        except OSError:
            self.answers["slow writer cut off"] += 1


def memory(pid: int) -> float:
    """Return MB of a process and its children, shared pages counted once (PSS; on Linux)."""
    total = 0
    with suppress(OSError):  # a process that has just ended
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for one in (pid, *children):
            pss = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{one}/smaps_rollup").read_text(), re.M)
            total += int(pss[1])
    return total / 1024


def times(seconds: list[float]) -> str:
    """Return count, median, 99th percentile and maximum as cells."""
    if not seconds:
        return "0 | | |"
    p50, p99 = np.percentile(seconds, [50, 99])
    return f"{len(seconds)} | {p50:.2f} s | {p99:.2f} s | {max(seconds):.2f} s"


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = PROJECT / "data/06_models/pretrained/unet_efficientnet"
    parser.add_argument("--checkpoint", type=Path, default=default)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    parser.add_argument("--seconds", type=float, default=2400)
    options = parser.parse_args()
    files, share = encode(phantoms()), options.seconds / (len(options.clients) + 1)
    answers: collections.Counter[str] = collections.Counter()
    with serving(options.checkpoint) as (address, server):
        first = memory(server.pid)
        print("| clients | slices | p50 | p99 | longest | volumes | p50 | p99 | longest | ", end="")
        print("refused (429, 503) | memory |\n|" + 11 * "---|")
        for clients in options.clients:
            load, most, end = Load(address, files, clients), 0.0, time.monotonic() + share
            while time.monotonic() < end - share / 4:  # the rest is for what is not answered yet
                most = max(most, memory(server.pid))
                time.sleep(0.5)
            load.stop(end)
            cells = " | ".join(map(times, load.latencies.values()))
            refused = load.answers["429"] + load.answers["503"]
            print(f"| {clients} | {cells} | {refused} | {most:.0f} MB |", flush=True)
            answers += load.answers + collections.Counter(lost=len(load.lost))
        time.sleep(min(5, share / 8))
        print(f"\nMemory at the start {first:.0f} MB, at the end {memory(server.pid):.0f} MB.")
        load, started = Load(address, files, 8), time.monotonic()
        time.sleep(min(5, share / 4))
        told = time.monotonic()
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(share / 2)
        gone = f"gone after {time.monotonic() - told:.1f} s"
        load.stop(started + share)
        # Later ones came to a connection that was closed already.
        lost = sum(sent < told for sent in load.lost)
        print(
            f"SIGTERM under load: {gone if server.poll() is not None else 'still at work'}, "
            f"{load.answers['200']} answers, {lost} lost."
        )
    with serving(options.checkpoint) as (_, server):
        server.kill()
        server.wait()
    started = time.monotonic()
    with serving(options.checkpoint):
        print(f"Ready {time.monotonic() - started:.1f} s after SIGKILL and a new start.")
    print(f"All answers: {dict(answers)}.")
    errors = [name for name in answers if name.startswith("5") and name != "503"]
    return int(bool(errors) or lost + answers["lost"] > 0)


if __name__ == "__main__":
    sys.exit(main())
