"""What `mkdocs build` calls: pages from the code's own types and configuration, and diagrams.

Nothing here is written down twice: the parameters come from their pydantic types and
`conf/*/parameters*.yml`, the catalog and the pipelines from Kedro, the Python reference from the
docstrings. Diagrams are drawn while building, so that the site loads nothing from elsewhere.
"""

import hashlib
import html
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import griffe
import mermaidx
import yaml
from kedro.config import OmegaConfigLoader
from kedro.framework.project import configure_project, pipelines
from kedro.pipeline import Pipeline
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel

from brain_mri_segmentation.models.registry import MODELS
from brain_mri_segmentation.parameters import ProjectParameters, flatten

PROJECT = Path(__file__).resolve().parents[1]
PACKAGE = "brain_mri_segmentation"
ENVIRONMENTS = (
    "base",
    *sorted(
        {path.parent.name for path in PROJECT.glob("conf/*/parameters.yml")} - {"base", "local"}
    ),
)

# Files outside docs/ that pages link to have a page of the reference instead, or none.
_PAGE_OF = {
    "conf/base/parameters_training.yml": "reference/parameters.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
_TAKEN_OVER = ("CONTRIBUTING.md", "CHANGELOG.md")


# --- hooks of MkDocs -----------------------------------------------------------------------------


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Complete the navigation: pages that it does not name come last in the guide."""
    docs = Path(config.docs_dir)
    there = {path.name for path in docs.glob("*.md")}
    config.nav = list(_without_absent(config.nav, there | {_PAGE_OF[name] for name in _TAKEN_OVER}))
    named = set(re.findall(r"[\w/]+\.md", str(config.nav)))
    guide = next(item["Guide"] for item in config.nav if isinstance(item, dict) and "Guide" in item)
    guide += sorted(there - named)
    return config


def _without_absent(items: list, there: set[str]) -> Iterator[object]:
    for item in items:
        if isinstance(item, dict):
            for title, value in item.items():
                if value == "reference/python":
                    yield {title: [f"{value}/{name}.md" for name in modules()]}
                elif isinstance(value, list):
                    yield {title: list(_without_absent(value, there))}
                else:
                    yield item
        elif item in there or item.startswith("reference/"):
            yield item


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {
        "reference/parameters.md": parameters_page(),
        "reference/catalog.md": catalog_page(),
        "reference/pipelines.md": pipelines_page(),
    }
    pages |= {_PAGE_OF[name]: (PROJECT / name).read_text() for name in _TAKEN_OVER}
    pages |= {f"reference/python/{name}.md": _python_page(name) for name in modules()}
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: object) -> str:
    """Draw diagrams, and turn links to files outside docs/ into links to pages."""
    depth = page.file.src_uri.count("/")

    def link(match: re.Match[str]) -> str:
        text, target = match[1], match[2].removeprefix("../").removeprefix("docs/")
        if (target := _PAGE_OF.get(target, target)) in {file.src_uri for file in files}:
            return f"[{text}]({'../' * depth}{target})"
        return text

    markdown = re.sub(r"\[([^\]]+)\]\((\.\./[^)#]+|docs/[^)#]+|[A-Z]+(?:\.md)?)\)", link, markdown)
    return re.sub(r"^```mermaid\n(.*?)^```$", _drawn, markdown, flags=re.MULTILINE | re.DOTALL)


def _drawn(match: re.Match[str]) -> str:
    svg = draw_diagram(match[1])
    return f'<figure class="diagram" markdown="0">{svg}</figure>'


@cache
def draw_diagram(source: str) -> str:
    """Return a mermaid diagram as SVG, with an id of its own so that several fit on a page."""
    name = hashlib.sha256(source.encode()).hexdigest()[:8]
    # Names of datasets are longer than the width at which mermaid cuts labels off.
    source = '%%{init: {"flowchart": {"wrappingWidth": 400}}}%%\n' + source
    svg = mermaidx.render(source).svg().replace("my-svg", f"diagram-{name}")
    # Markdown would take an empty line for the end of the block.
    return re.sub(r"\n\s*\n", "\n", svg)


# --- parameters ----------------------------------------------------------------------------------


def parameters_page() -> str:
    """Return every parameter with type, values and meaning, group by group."""
    values = {name: flatten(_parameters_of(name)) for name in ENVIRONMENTS}
    parts = [
        "# Parameters\n",
        "Generated from the types in `parameters.py` and the values in `conf/*/parameters*.yml`. "
        "Change one in `conf/local/parameters.yml` (`model`, `raw_path`, `split_manifest`, `input` "
        "and `serving_model` in `conf/local/globals.yml`), or for a single run:\n",
        "```bash\nkedro run --params training.epochs=5,model=segformer\n```\n",
        "An unknown name or a value outside its range is refused before anything runs.\n",
    ]
    for group, prefix, model in _groups(ProjectParameters):
        parts.append(f"## {prefix.rstrip('.') or 'General'}\n")
        if group:
            parts.append(f"{group}\n")
        parts.append(_parameter_table(prefix, model, values))
    return "\n".join(parts)


def _groups(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, type[BaseModel]]]:
    yield (inspect.getdoc(model) or "" if prefix else ""), prefix, model
    for name, field in model.model_fields.items():
        if name == "models":
            for architecture, kind in MODELS.items():
                options = kind.Options
                yield inspect.getdoc(options) or "", f"models.{architecture}.", options
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _groups(field.annotation, f"{prefix}{name}.")


def _parameter_table(
    prefix: str, model: type[BaseModel], values: dict[str, dict[str, object]]
) -> str:
    documented = _package()[f"{model.__module__.partition('.')[2]}.{model.__name__}"]
    schema = model.model_json_schema()
    rows = ["| parameter | values | base | other environments | meaning |", "|---|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            continue
        if name == "models" and model is ProjectParameters:
            continue
        key = f"{prefix}{name}"
        docstring = documented.members[name].docstring
        if docstring is None:
            raise ValueError(f"{model.__name__}.{name} has no line of documentation")
        elsewhere = [f"{e}: `{values[e][key]}`" for e in ENVIRONMENTS[1:] if key in values[e]]
        default = values["base"].get(key, field.default)
        kinds = {"enum": list(MODELS)} if key == "model" else schema["properties"][name]
        cells = (
            f"`{key}`",
            allowed_values(kinds, schema),
            f"`{_as_yaml(default)}`",
            ", ".join(elsewhere),
            " ".join(docstring.value.replace("``", "`").split()),
        )
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def allowed_values(schema: dict, root: dict) -> str:
    """Return in words what a JSON schema allows."""
    if "$ref" in schema:
        return allowed_values(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema:
        return " or ".join(allowed_values(option, root) for option in schema["anyOf"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kinds = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "yes or no",
    }
    words = kinds.get(schema.get("type", ""), schema.get("type", "any"))
    if schema.get("type") == "array":
        words = f"list of {allowed_values(schema['items'], root)}"
    if schema.get("type") == "boolean":
        words = "`true`, `false`"
    bounds = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
        "multipleOf": "a multiple of",
    }
    said = [f"{text} {schema[name]:.10g}" for name, text in bounds.items() if name in schema]
    return ", ".join([words, *said])


def _as_yaml(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()


@cache
def _package() -> griffe.Module:
    return griffe.load(PACKAGE, search_paths=[str(PROJECT / "src")])


# --- catalog and pipelines -----------------------------------------------------------------------


@cache
def _config() -> OmegaConfigLoader:
    return OmegaConfigLoader(str(PROJECT / "conf"), base_env="base", default_run_env="base")


def _parameters_of(environment: str) -> dict:
    if environment == "base":
        return _config()["parameters"]
    return yaml.safe_load((PROJECT / f"conf/{environment}/parameters.yml").read_text())


@cache
def _pipelines() -> dict[str, Pipeline]:
    configure_project(PACKAGE)
    return {name: pipeline for name, pipeline in pipelines.items() if name != "__default__"}


def catalog_page() -> str:
    """Return every catalog entry with its class, its place and the nodes at its ends."""
    parts = [
        "---\nhide: [toc]\n---\n",
        "# Catalog\n",
        "Generated from `conf/base/catalog*.yml` and the pipelines. `<model>` is the parameter "
        "`model`. An entry of the same name in `conf/local/catalog.yml` replaces the one here.\n",
        "| entry | kind | place | written by | read by |",
        "|---|---|---|---|---|",
    ]
    nodes = [node for pipeline in _pipelines().values() for node in pipeline.nodes]
    model = _config()["globals"]["model"]
    for name, entry in _config()["catalog"].items():
        if name.startswith("_"):
            continue
        inner = entry.get("dataset", entry)
        inner = inner if isinstance(inner, dict) else {"type": inner}
        place = next((v for k in ("filepath", "path") for v in [inner.get(k)] if v), "")
        place = str(place).replace(f"/{model}/", "/<model>/")
        writers = sorted({f"`{_any_copy(node.name)}`" for node in nodes if name in node.outputs})
        readers = sorted({f"`{_any_copy(node.name)}`" for node in nodes if name in node.inputs})
        kind = str(inner.get("type", entry["type"])).rpartition(".")[2]
        if inner is not entry:
            kind += f" in {str(entry['type']).rpartition('.')[2]}"
        # A path may be broken at its slashes, so that all columns fit the page.
        path = f"<code>{html.escape(place).replace('/', '/<wbr>')}</code>" if place else ""
        cells = (f"`{name}`", kind, path)
        parts.append("| " + " | ".join([*cells, ", ".join(writers), ", ".join(readers)]) + " |")
    return "\n".join(parts) + "\n"


def pipelines_page() -> str:
    """Return every pipeline as a diagram and a table of its nodes."""
    parts = [
        "---\nhide: [toc]\n---\n",
        "# Pipelines\n",
        "Generated from the pipelines. `kedro viz` shows the same, to explore, with previews of "
        "tables and figures. `make docs` builds it into `site/viz`, which needs a web server: "
        "`python -m http.server --directory site`, then <http://localhost:8000/viz/>.\n",
    ]
    for name, pipeline in sorted(_pipelines().items()):
        module = __import__(f"{PACKAGE}.pipelines.{name}.pipeline", fromlist=["create_pipeline"])
        parts += [
            f"## {name}\n",
            f"{inspect.getdoc(module.create_pipeline)}\n",
            f"```mermaid\n{pipeline_diagram(pipeline)}```\n",
            "| node | does | takes | gives |",
            "|---|---|---|---|",
        ]
        rows = {}
        for node in pipeline.nodes:
            does = (inspect.getdoc(node.func) or "").partition("\n\n")[0].replace("\n", " ")
            takes, gives = (
                ", ".join(f"`{n}`" for n in dict.fromkeys(map(_any_copy, names)))
                for names in (node.inputs, node.outputs)
            )
            rows[_any_copy(node.name)] = f"{does} | {takes} | {gives}"
        parts += [f"| `{node}` | {row} |" for node, row in rows.items()]
        parts.append("")
    return "\n".join(parts)


def _any_copy(name: str) -> str:
    """Return one name for the copies of a namespace: ``fold_2.checkpoint`` is ``fold_n...``."""
    return re.sub(r"^(\w+)_\d+\.", r"\1_n.", name)


def pipeline_diagram(pipeline: Pipeline) -> str:
    """Return a pipeline's data flow in mermaid: nodes as boxes, datasets rounded, no parameters."""
    boxes, datasets, arrows = {}, {}, {}  # as ordered sets
    for node in pipeline.nodes:
        box = _any_copy(node.name)
        boxes[f"  node.{box}[{box}]:::step"] = None
        for names, arrow in ((node.inputs, "{} --> node.{}"), (node.outputs, "node.{1} --> {0}")):
            for name in map(_any_copy, names):
                if not name.startswith("params:"):
                    datasets[f"  {name}([{name}])"] = None
                    arrows["  " + arrow.format(name, box)] = None
    style = "  classDef step fill:#0072B2,stroke:#0072B2,color:#fff"
    return "\n".join(["flowchart TD", *boxes, *datasets, *arrows, style]) + "\n"


# --- Python reference ----------------------------------------------------------------------------


@cache
def modules() -> tuple[str, ...]:
    """Return the modules that the reference shows: files, and packages by their ``__init__``."""
    package = PROJECT / "src" / PACKAGE
    found = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if parts[-1] in ("__init__", "__main__", "settings") or parts[0] == "pipelines":
            continue
        found.append(".".join(parts))
    return tuple(found)


def _python_page(module: str) -> str:
    return f"# {module}\n\n::: {PACKAGE}.{module}\n"
