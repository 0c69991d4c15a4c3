"""Draw the pictures in docs/images, from phantoms alone.

    python scripts/pictures.py

Where Dice misleads, and (with --page, with chromium) the page of the service and a report.
"""

import argparse
import io
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.ndimage import binary_dilation

from brain_mri_segmentation.cohort.phantom import make_volume
from brain_mri_segmentation.evaluation import metrics
from brain_mri_segmentation.evaluation.plots import BLUE, ORANGE
from brain_mri_segmentation.imaging.geometry import Geometry
from brain_mri_segmentation.imaging.medical import write_nifti

PROJECT = Path(__file__).resolve().parents[1]
SIZE, FLAIR = 256, 1


def phantom_slices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return FLAIR (H, W) uint8 and tumour (H, W) bool of one slice, and FLAIR without a tumour."""
    volume = make_volume(slices=11, size=SIZE, random=np.random.default_rng(4))
    image, mask = max(volume, key=lambda pair: np.count_nonzero(pair[1]))
    empty = [picture for picture, tumour in volume if not tumour.any()]
    plain = max(empty, key=lambda picture: np.count_nonzero(picture[..., FLAIR] > 50))
    return image[..., FLAIR], mask > 0, plain[..., FLAIR]


def disc(row: float, column: float, radius: float) -> np.ndarray:
    """Return a filled circle (SIZE, SIZE) bool."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    return np.hypot(rows - row, columns - column) <= radius


def scores(prediction: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Return Dice and pixel accuracy of one mask."""
    counts = metrics.confusion_counts(prediction, truth)
    return float(metrics.dice(counts)), float(metrics.pixel_accuracy(counts))


def _show(
    axes: Axes, flair: np.ndarray, truth: np.ndarray, prediction: np.ndarray, title: str
) -> None:
    axes.imshow(flair, cmap="gray", vmin=0, vmax=255)
    for mask, colour, style in ((truth, BLUE, "solid"), (prediction, ORANGE, "dashed")):
        if mask.any():
            axes.contour(mask, levels=[0.5], colors=[colour], linewidths=1.8, linestyles=style)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=10)


def _panels(finding: str, more_height: float = 0) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(9.6, 3.9 + more_height), layout="constrained")
    figure.suptitle(finding, fontsize=12)
    figure.supxlabel("truth solid blue, prediction dashed orange; a synthetic phantom", fontsize=8)
    return figure, list(figure.subplots(1, 3))


def _with_disc(plain: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return np.where(truth, np.minimum(plain.astype(int) + 70, 255), plain)


def _grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    rows, columns = np.ogrid[-pixels : pixels + 1, -pixels : pixels + 1]
    return binary_dilation(mask, np.hypot(rows, columns) <= pixels)


def small_tumours() -> Figure:
    """The same error of three pixels on a large and on a small tumour."""
    *_, plain = phantom_slices()
    cases = []
    for radius in (30, 10, 4):
        truth = disc(128, 100, radius)
        found = np.roll(truth, 3, axis=1)
        cases.append((truth, found, scores(found, truth)[0]))
    largest, smallest = cases[0][2], cases[-1][2]
    figure, panels = _panels(
        f"A shift of 3 pixels leaves a large tumour a Dice of {largest:.2f}, "
        f"a small one {smallest:.2f}"
    )
    for axes, (truth, found, dice) in zip(panels, cases, strict=True):
        title = f"{truth.sum():,} pixels: Dice {dice:.2f}"
        _show(axes, _with_disc(plain, truth), truth, found, title)
        axes.set(xlim=(40, 160), ylim=(188, 68))
    return figure


def same_dice() -> Figure:
    """Three errors with one Dice: too wide, too narrow, and a part that is missed."""
    flair, tumour, _ = phantom_slices()
    rows, columns = np.nonzero(tumour)
    inside = [tumour & ~_grown(~tumour, pixels) for pixels in range(1, 12)]
    narrow = min(inside, key=lambda mask: abs(scores(mask, tumour)[0] - 0.8))
    target, _ = scores(narrow, tumour)
    wide = min(
        (_grown(tumour, pixels) for pixels in range(1, 12)),
        key=lambda mask: abs(scores(mask, tumour)[0] - target),
    )
    cuts = [tumour & (np.arange(SIZE)[None] < edge) for edge in np.unique(columns)]
    missed = min(cuts, key=lambda mask: abs(scores(mask, tumour)[0] - target))
    figure, panels = _panels(f"Three different errors, one Dice of about {target:.1f}")
    for axes, mask, name in zip(
        panels, (narrow, wide, missed), ("too narrow", "too wide", "a part missed"), strict=True
    ):
        _show(axes, flair, tumour, mask, f"{name}: Dice {scores(mask, tumour)[0]:.2f}")
        axes.set(
            xlim=(columns.min() - 30, columns.max() + 30), ylim=(rows.max() + 30, rows.min() - 30)
        )
    return figure


def nothing_found() -> Figure:
    """Pixel accuracy and Dice of a model that finds nothing, and of a false alarm."""
    *_, plain = phantom_slices()
    truth, speck = disc(128, 100, 12), disc(110, 160, 2)
    empty = np.zeros_like(truth)
    with_tumour = _with_disc(plain, truth)
    cases = [
        (with_tumour, truth, empty, "tumour missed"),
        (plain, empty, empty, "no tumour, none found"),
        (plain, empty, speck, f"no tumour, {speck.sum()} false pixels"),
    ]
    figure, panels = _panels("Pixel accuracy hardly notices what Dice cannot overlook", 0.4)
    for axes, (picture, true, found, name) in zip(panels, cases, strict=True):
        dice, accuracy = scores(found, true)
        said = "undefined" if np.isnan(dice) else f"{dice:.2f}"
        _show(axes, picture, true, found, f"{name}\nDice {said}, pixel accuracy {accuracy:.4f}")
    return figure


DRAWN: dict[str, Callable[[], Figure]] = {
    "dice_small_tumours.png": small_tumours,
    "dice_same.png": same_dice,
    "dice_nothing_found.png": nothing_found,
}


def photograph_page(folder: Path) -> None:
    """Take pictures of a synthetic head on the service's page, also on a phone, and in a report."""
    from playwright.sync_api import sync_playwright

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    service = subprocess.Popen(
        [sys.executable, "-m", "brain_mri_segmentation.serving"],
        cwd=PROJECT,
        env=os.environ | {"UVICORN_PORT": str(port)},
    )
    slices = np.stack([image for image, _ in make_volume(20, 256, np.random.default_rng(2))])
    place = Geometry(np.diag([-0.9, -0.9, 6.0, 1.0]), (256, 256, 20))
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as sequences:
        for channel, name in enumerate(("t1", "flair", "t1ce")):
            picture = write_nifti(slices[..., channel].astype(np.float32), place)
            sequences.writestr(f"head_{name}.nii.gz", picture)
    head = {"name": "head.zip", "mimeType": "application/zip", "buffer": content.getvalue()}
    try:
        _wait_for(f"http://127.0.0.1:{port}/ready")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"),
                args=["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"],
            )
            for name, (width, height) in {"page": (1100, 980), "page_phone": (390, 844)}.items():
                page = browser.new_page(viewport={"width": width, "height": height})
                page.goto(f"http://127.0.0.1:{port}")
                page.set_input_files("#files", head)
                page.wait_for_selector("#progress", state="hidden", timeout=60_000)
                page.check("[value=contour]" if name == "page" else "[value=fill]")
                page.wait_for_timeout(2000)
                page.evaluate("scrollTo(0, 0)")
                page.screenshot(path=folder / f"{name}.png", full_page=True)
            page = browser.new_page(viewport={"width": 1000, "height": 1390})
            report = page.request.post(
                f"http://127.0.0.1:{port}/segment/volume",
                headers={"Accept": "text/html"},
                multipart={"files": head},
            )
            page.set_content(report.text())
            page.screenshot(path=folder / "report.png")
            browser.close()
    finally:
        service.terminate()
        service.wait()


def _wait_for(address: str) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(address).close()
            return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"Error: {address} did not answer within a minute.")


def main() -> None:
    """Draw them all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", action="store_true", help="page and report of the service, too")
    options = parser.parse_args()
    folder = PROJECT / "docs/images"
    for name, draw in DRAWN.items():
        draw().savefig(folder / name, dpi=90)
    if options.page:
        photograph_page(folder)


if __name__ == "__main__":
    main()
