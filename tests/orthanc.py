"""A real PACS on loopback for the time of a test, and a way to it that breaks."""

import contextlib
import json
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import pytest

_SETTINGS = Path(__file__).parents[1] / "conf/orthanc.json"  # of docker-compose.yml
_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


class Orthanc:
    """An empty Orthanc that keeps its files in a folder.

    Attributes:
        root: Address of its own interface.
        url: Address of DICOMweb.
    """

    def __init__(self, folder):
        program = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
        if program is None or not _PLUGIN.exists():
            pytest.skip("Orthanc is not installed (Debian: orthanc orthanc-dicomweb)")
        self.port = free_port()
        self.root = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.root}/dicom-web"
        text = re.sub(r"^ *//.*$", "", _SETTINGS.read_text(), flags=re.MULTILINE)
        settings = json.loads(text) | {
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "HttpPort": self.port,
            "HttpBindAddresses": ["127.0.0.1"],
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        with (folder / "orthanc.log").open("wb") as log:
            self.process = subprocess.Popen(
                [program, folder / "orthanc.json"], stdout=log, stderr=subprocess.STDOUT
            )
        for _ in range(300):
            try:
                self.ask("system")
                return
            except OSError:
                time.sleep(0.2)
            if self.process.poll() is not None:
                break
        self.stop()
        raise RuntimeError((folder / "orthanc.log").read_text())

    def ask(self, path, content=None):
        """Return what an address of its own interface answers."""
        request = urllib.request.Request(f"{self.root}/{path}", content)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def upload(self, files):
        for file in files:
            self.ask("instances", file)

    def segmentations(self):
        """Return the contents of all DICOM SEG in it."""
        found = []
        for instance in self.ask("instances"):
            if self.ask(f"instances/{instance}/simplified-tags")["Modality"] == "SEG":
                with urllib.request.urlopen(f"{self.root}/instances/{instance}/file") as answer:
                    found.append(answer.read())
        return found

    def stop(self):
        self.process.terminate()
        self.process.wait(30)


class Breaking:
    """A way to a server on loopback that breaks when so many bytes have come back on it."""

    def __init__(self, port, most):
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port, self._to, self._left = self._server.getsockname()[1], port, most
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:  # closed
                return
            server = socket.create_connection(("127.0.0.1", self._to))
            for pair in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._forward, args=pair, daemon=True).start()

    def _forward(self, source, target, back):
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                if back:
                    self._left -= len(data)
                    if self._left < 0:
                        break
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self):
        self._server.close()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
