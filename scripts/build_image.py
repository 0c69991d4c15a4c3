"""Build a serving image without a Docker engine, start the service inside it, and post a slice.

    .venv/bin/python scripts/build_image.py [--target serving-lite] [--archive image.tar]
        [--build-arg MODEL=PATH]

For Debian and Ubuntu, as root, with the packages buildah and debootstrap. The base image is made on
the spot, so that no registry is needed. pip's own configuration goes into the build, with the files
and folders of this machine that it names. Everything is made in a temporary folder and removed at
the end. Exit code 77: this machine cannot build images.
"""

import argparse
import ast
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx
import numpy as np
from PIL import Image

from brain_mri_segmentation.cohort.phantom import make_volume

PROJECT = Path(__file__).resolve().parents[1]
CANNOT_RUN_HERE = 77
SUITE = "bookworm"  # Debian 12, which has Python 3.11
PACKAGES = "python3,python3-venv,ca-certificates"
BASE, IMAGE = "localhost/debian-python", "localhost/brain-mri-segmentation"


@contextmanager
def running(command: list[str], **options: object) -> Iterator[subprocess.Popen]:
    """Run a command, and end it with all that it started if it is still there at the end."""
    process = subprocess.Popen(command, start_new_session=True, **options)
    try:
        yield process
    finally:
        for kind in (signal.SIGTERM, signal.SIGKILL):
            if process.poll() is None:
                os.killpg(process.pid, kind)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(30)


def run(command: list[str], **options: object) -> str:
    """Run a command to its end and return what it prints; show that only if it fails."""
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with running(command, **pipe, text=True, **options) as process:
        printed, said = process.communicate()
    if process.returncode != 0:
        shown = f"{printed[-10_000:]}{said[-10_000:]}"
        raise SystemExit(f"{shown}Error: {command[0]} ended with {process.returncode}.")
    return printed.strip()


class Buildah:
    """Debian's buildah with images of its own in one folder, apart from any others here."""

    def __init__(self, folder: Path) -> None:
        # vfs and chroot need neither overlay file systems nor namespaces.
        self._command = ["buildah", "--storage-driver", "vfs"]
        self._command += ["--root", str(folder / "images"), "--runroot", str(folder / "run")]
        self._options = {"env": os.environ | {"BUILDAH_ISOLATION": "chroot", "TMPDIR": str(folder)}}

    def __call__(self, *arguments: str) -> str:
        """Run a command of buildah to its end and return what it prints."""
        return run([*self._command, *arguments], **self._options)

    def running(
        self, *arguments: str, **options: object
    ) -> AbstractContextManager[subprocess.Popen]:
        """Run a command of buildah while a context lasts."""
        return running([*self._command, *arguments], **self._options, **options)


def why_not_here() -> str | None:
    """Say what keeps this machine from building images; None when nothing does."""
    if os.geteuid() != 0:
        return "debootstrap and chroot need root"
    if missing := [tool for tool in ("buildah", "debootstrap") if shutil.which(tool) is None]:
        return f"missing: {' '.join(missing)} (apt-get install buildah debootstrap)"
    return None


def make_base(buildah: Buildah) -> None:
    """Make a base image of Debian's own packages."""
    container = buildah("from", "scratch")
    root = Path(buildah("mount", container))
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}"]
    run([*command, SUITE, str(root), debian_mirror()])
    for place in ("var/cache/apt", "var/lib/apt/lists", "usr/share/locale", "usr/share/man"):
        shutil.rmtree(root / place)
    for path in (root / "usr/share/doc").rglob("*"):
        if path.name != "copyright" and not path.is_dir():
            path.unlink()
    buildah("umount", container)
    buildah("commit", "--rm", container, BASE)


def debian_mirror() -> str:
    """Return the mirror that apt takes this suite from, or Debian's own."""
    if shutil.which("apt-get"):
        query = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
        query += [f"Codename: {SUITE}", "Component: main", "Origin: Debian"]
        if found := run(query).split():
            return found[0]
    return "http://deb.debian.org/debian"


def pip_configuration(folder: Path) -> list[str]:
    """Write down how pip is configured here, and return what gives the build the same."""
    listed = run([sys.executable, "-m", "pip", "config", "list"])
    values: dict[str, str] = {}
    for line in sorted(listed.splitlines(), key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")  # the environment comes last, since it wins
        values[name.rpartition(".")[2]] = ast.literal_eval(value)
    lines = ["[global]", *(f"{name} = {value}" for name, value in values.items())]
    (folder / "pip.conf").write_text("\n".join(lines).replace("\n\n", "\n") + "\n")
    arguments = ["--secret", f"id=pip,src={folder / 'pip.conf'}"]
    if values.keys() & {"index-url", "extra-index-url", "find-links"}:
        arguments += ["--build-arg", "PIP_EXTRA_INDEX_URL="]  # packages come from there alone
    places = set()
    for word in " ".join(values.values()).split():
        if word.startswith("file://"):  # an index, which has its files beside it
            places.add(Path(unquote(urlsplit(word).path)).parent)
        elif word.startswith("/") and Path(word).exists():
            places.add(Path(word))
    for place in sorted(places):
        arguments += ["--volume", f"{place}:{place}:ro"]
    return arguments


@contextmanager
def service(
    buildah: Buildah, container: str, settings: dict, log: Path
) -> Iterator[tuple[str, float, int]]:
    """Run the image's own command in a container.

    Yields:
        Its address on loopback, the seconds until it was ready, and the process that runs it.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = ["--env", "UVICORN_HOST=127.0.0.1", "--env", f"UVICORN_PORT={port}"]
    command = ["run", *environment, container, "--"]
    address = f"http://127.0.0.1:{port}"
    with (
        log.open("w") as output,
        buildah.running(*command, *settings["Cmd"], stdout=output, stderr=output) as process,
    ):
        started = time.perf_counter()
        while (seconds := time.perf_counter() - started) < 120:
            with suppress(httpx.TransportError):
                if httpx.get(f"{address}/ready").status_code == 200:
                    break
            if process.poll() is not None:
                raise SystemExit(f"{log.read_text()}Error: the service ended by itself.")
            time.sleep(0.1)
        else:
            raise SystemExit(f"{log.read_text()}Error: the service was not ready after 120 s.")
        buildah(*command, *settings["Healthcheck"]["Test"][1:])
        yield address, seconds, process.pid
        os.kill(served_by(process.pid), signal.SIGTERM)  # as an engine stops a container
        process.wait(60)
    if "everything that was in flight is answered" not in log.read_text():
        raise SystemExit(f"{log.read_text()}Error: the service did not stop in order.")


def served_by(pid: int) -> int:
    """Return the service at the end of a chain of processes, and not one that decodes for it."""
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in listed.read_text().split():
            if b"imaging.decoder" not in Path(f"/proc/{child}/cmdline").read_bytes():
                return served_by(int(child))
    return pid


def memory_of(pid: int) -> float:
    """Return what a process holds in memory, in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1000


def post_a_slice(address: str) -> str:
    """Segment a phantom, and describe the answer."""
    slices = make_volume(5, 256, np.random.default_rng(0))
    image = slices[2][0][:, 16:-16]  # not a square: the mask must have the slice's own size
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "TIFF")
    started = time.perf_counter()
    answer = httpx.post(f"{address}/segment", files={"file": buffer.getvalue()}, timeout=60)
    seconds = time.perf_counter() - started
    if answer.status_code != 200:
        raise SystemExit(f"Error: the service answered {answer.status_code}: {answer.text}")
    mask = Image.open(io.BytesIO(answer.content), formats=["PNG"])
    if mask.size != (image.shape[1], image.shape[0]) or set(mask.tobytes()) - {0, 255}:
        raise SystemExit(f"Error: the answer is no mask of the slice: {mask}")
    model, found = answer.headers["X-Model-Name"], answer.headers["X-Tumour-Fraction"]
    return f"{model}, PNG of {mask.size}, tumour fraction {found}, {1000 * seconds:.0f} ms"


def build(folder: Path, options: argparse.Namespace) -> None:
    """Build the image and try it."""
    started = time.perf_counter()

    def report(step: str) -> None:
        print(f"[{time.perf_counter() - started:4.0f} s] {step}", flush=True)

    buildah = Buildah(folder)
    report(f"base image: Debian {SUITE} with {PACKAGES}")
    make_base(buildah)
    report(f"image {options.target}")
    arguments = pip_configuration(folder)
    for text in options.build_arg:
        arguments += ["--build-arg", text]
    # Docker's own format has the health check, which that of OCI lacks.
    command = ["build", "--format", "docker", "--layers=false", "--target", options.target]
    command += ["--build-arg", f"BASE={BASE}", *arguments, "--tag", IMAGE, str(PROJECT)]
    buildah(*command)
    sizes = buildah("images", "--format", "{{.Name}} {{.Size}}")
    report("size: " + ", ".join(line for line in sizes.splitlines() if "<none>" not in line))
    settings = json.loads(buildah("inspect", "--type", "image", IMAGE))["Docker"]["config"]
    container = buildah("from", IMAGE)
    user = buildah("run", container, "--", "id", "-u")
    if user == "0":
        raise SystemExit("Error: the image runs as root.")
    with service(buildah, container, settings, folder / "service.log") as (address, seconds, pid):
        report(f"ready after {seconds:.1f} s, healthy, as user {user}")
        report("answer: " + post_a_slice(address))
        report(f"memory: {memory_of(served_by(pid)):.0f} MB, without the decoders")
    report("stopped in order")
    if options.archive:
        buildah("push", IMAGE, f"docker-archive:{options.archive}:{IMAGE}")
        report(f"saved: {options.archive}")
    report("done")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--target", default="serving", help="serving, or serving-lite without torch"
    )
    parser.add_argument("--archive", type=Path, help="keep the image in a file, for `docker load`")
    parser.add_argument("--build-arg", action="append", default=[], help="such as MODEL=PATH")
    options = parser.parse_args()
    if reason := why_not_here():
        print(f"The image is not built here: {reason}.")
        sys.exit(CANNOT_RUN_HERE)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    folder = Path(tempfile.mkdtemp(prefix="image."))
    try:
        build(folder, options)
    finally:
        # What was interrupted may have left /proc in a base image, which must not be emptied.
        for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            if (place := line.split()[4]).startswith(f"{folder}/"):
                run(["umount", place])
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
