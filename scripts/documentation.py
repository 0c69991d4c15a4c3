"""Hooks of MkDocs: pages from elsewhere in the repository, and diagrams drawn while building.

A diagram is a picture in the page, so that the site loads nothing from elsewhere.
"""

import hashlib
import re
from pathlib import Path

import mermaidx
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PROJECT = Path(__file__).resolve().parents[1]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root, and one of what `conf/base` says."""
    pages = {
        f"{name.lower()}.md": (PROJECT / f"{name}.md").read_text().replace("](docs/", "](")
        for name in ("CONTRIBUTING", "CHANGELOG", "SECURITY")
    }
    pages["reference/configuration.md"] = (
        "# Configuration\n\nWhat `conf/base` says; `conf/local` comes after it. Types and ranges: "
        "[parameters](python/brain_mri_segmentation/parameters.md), where the limits of "
        "the service (`ServingParameters`) are as well.\n\n"
    ) + "\n".join(
        f"## {path.name}\n\n```yaml\n{path.read_text()}```\n"
        for path in sorted(PROJECT.glob("conf/base/*.yml"))
        if path.stem != "credentials"
    )
    for place, content in pages.items():
        files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Draw the diagrams."""
    return re.sub(r"^```mermaid\n(.*?)^```$", _drawn, markdown, flags=re.MULTILINE | re.DOTALL)


def _drawn(match: re.Match[str]) -> str:
    name = hashlib.sha256(match[1].encode()).hexdigest()[:8]  # so that several fit on a page
    svg = mermaidx.render(match[1]).svg().replace("my-svg", f"diagram-{name}")
    svg = re.sub(r"\n\s*\n", "\n", svg)  # Markdown would take an empty line for the end
    return f'<figure class="diagram" markdown="0">{svg}</figure>'
