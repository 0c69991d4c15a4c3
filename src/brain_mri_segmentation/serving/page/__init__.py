"""The page: one document that loads nothing, with its scripts and those of NiiVue in it."""

import re
from pathlib import Path


def read_page() -> str:
    """Return the page with its scripts in their places, so that a policy can name each by hash.

    ``viewer.js`` holds NiiVue and fflate; ``make page`` makes it.
    """
    folder = Path(__file__).parent
    return re.sub(
        r'<script src="(.+?)"></script>',
        lambda script: f"<script>{(folder / script[1]).read_text()}</script>",
        (folder / "index.html").read_text(),
    )
