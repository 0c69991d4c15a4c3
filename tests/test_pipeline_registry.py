"""Every dataset, parameter and node of the pipelines is declared, used and named."""

from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

from kedro.config import OmegaConfigLoader
from kedro.framework.project import configure_project, pipelines
from kedro.io.catalog_config_resolver import CatalogConfigResolver

import brain_mri_segmentation
from brain_mri_segmentation.serving import model as serving_model

PACKAGE = Path(brain_mri_segmentation.__file__).parent
NAME = PACKAGE.name


def names(*, parameters: bool) -> set[str]:
    """Return what the pipelines read and write: datasets, or parameters without ``params:``."""
    configure_project(NAME)
    found = set().union(*(pipeline.datasets() for pipeline in pipelines.values()))
    return {n.removeprefix("params:") for n in found if n.startswith("params:") == parameters}


@cache  # a pattern takes longer to compile than all else here
def declared_as(name: str) -> str:
    """Return the entry of the catalog that a dataset's name falls under."""
    entries = configured("catalog")
    pattern = CatalogConfigResolver(entries, configured("credentials")).match_dataset_pattern(name)
    return name if name in entries else pattern or name


@cache
def configured(kind: str) -> dict:
    conf = str(PACKAGE.parents[1] / "conf")
    return OmegaConfigLoader(conf, base_env="base", default_run_env="base")[kind]


def test_every_catalog_entry_is_used_and_every_input_is_declared():
    used = {declared_as(name) for name in names(parameters=False)}
    assert configured("catalog").keys() == used | {serving_model.ENTRY}


def test_layers_go_one_way():
    """Kedro-Viz shows no layers at all where one lies both above and below another."""
    configure_project(NAME)
    for pipeline in (pipeline for name, pipeline in pipelines.items() if name != "final"):
        # In final, what the folds found out goes back into the model.
        above: dict[str, set[str]] = {}  # layers that a dataset is made from, by dataset
        order: dict[str, set[str]] = {}  # the same by layer
        for node in pipeline.nodes:
            sources = set().union(*(above.get(name, set()) for name in node.inputs))
            sources |= {layer for name in node.inputs if (layer := layer_of(name))}
            for name in node.outputs:
                above[name] = sources
                if layer := layer_of(name):
                    order[layer] = order.get(layer, set()) | sources - {layer}
        TopologicalSorter(order).prepare()  # raises CycleError


def layer_of(name: str) -> str | None:
    metadata = configured("catalog").get(declared_as(name), {}).get("metadata", {})
    return metadata.get("kedro-viz", {}).get("layer")


def test_every_parameter_is_used_and_every_one_that_a_node_takes_is_declared():
    assert configured("parameters").keys() == names(parameters=True)


def test_every_node_is_named_by_its_function():
    configure_project(NAME)
    for pipeline in pipelines.values():
        for node in pipeline.nodes:
            name = node.name.rpartition(".")[2].removeprefix("plot_")  # of a picture
            assert name == node.func.__name__


def test_a_node_and_a_dataset_never_share_a_name():
    """Or the address of one would show the other in Kedro-Viz."""
    configure_project(NAME)
    for name, pipeline in pipelines.items():
        assert not {node.name for node in pipeline.nodes} & set(pipeline.datasets()), name
