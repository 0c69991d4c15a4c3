"""The command ``brain-mri-segmentation``: masks for files and folders, the service, the model."""

from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from brain_mri_segmentation import DISCLAIMER, __version__
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.dicomweb import Pacs
from brain_mri_segmentation.imaging.naming import without_ending
from brain_mri_segmentation.imaging.readers import find_volumes, read_sequences
from brain_mri_segmentation.imaging.volume import SEQUENCES
from brain_mri_segmentation.inference.folders import (
    Outcome,
    seg_of,
    segment_volume,
    segment_volumes,
    tabulate,
    to_csv,
)
from brain_mri_segmentation.inference.on_ray import segment_on_ray
from brain_mri_segmentation.inference.predictor import (
    BATCH_SIZE,
    Predictor,
    best_device,
    load_model,
)
from brain_mri_segmentation.models import SHIPPED_MODEL
from brain_mri_segmentation.parameters import EngineName
from brain_mri_segmentation.runtime import startup
from brain_mri_segmentation.runtime.files import Folder

_MOST_ROWS = 40  # of the table that is printed
_DICE = {"out_of_fold_dice": "Dice out of fold", "val_dice": "validation Dice"}
_NOT_SHOWN = ("volume", "review", "notes", "tumour_ml_low", "tumour_ml_high", "expected_dice")

app = typer.Typer(
    help=f"Find lower-grade glioma in brain MRI slices. {DISCLAIMER}",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # it would keep the line breaks of this file in its help
    pretty_exceptions_enable=False,
)
# Names of files may look like markup.
_out, _err = (
    Console(stderr=stderr, soft_wrap=True, markup=False, emoji=False, highlight=False)
    for stderr in (False, True)
)

Model = Annotated[
    str,
    typer.Option(
        envvar="SERVING_MODEL",
        help="Checkpoint or exported model, instead of the shipped one.",
        show_default=False,
    ),
]
Device = Annotated[
    Literal["auto", "cpu"], typer.Option(help="auto takes a GPU where there is one.")
]

Engine = Annotated[
    EngineName,
    typer.Option(envvar="SERVING_ENGINE", help="auto is the fastest; torch the reference."),
]


@app.callback()
def _prepare() -> None:
    startup.prepare()


@app.command()
def segment(
    output: Annotated[
        str, typer.Option("--output", "-o", help="Folder for masks, overlays and tables.")
    ],
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH...",
            help="Slices, stacks, DICOM, NIfTI, NRRD, MetaImage, zips, or folders of them.",
        ),
    ] = None,
    flair: Annotated[
        str | None, typer.Option(help="FLAIR of one head, instead of PATH.", metavar="PATH|N")
    ] = None,
    pre: Annotated[
        str | None, typer.Option(help="Its T1 before contrast medium.", metavar="PATH|N")
    ] = None,
    post: Annotated[
        str | None, typer.Option(help="Its T1 after contrast medium.", metavar="PATH|N")
    ] = None,
    dicomweb: Annotated[
        str | None, typer.Option(help="PACS with a study, instead of PATH.", metavar="URL")
    ] = None,
    study: Annotated[str | None, typer.Option(help="The study there.", metavar="UID")] = None,
    store: Annotated[
        bool, typer.Option("--store", help="Store the DICOM SEG in that PACS, one for research.")
    ] = False,
    model: Model = str(SHIPPED_MODEL),
    device: Device = "auto",
    engine: Engine = "auto",
    batch_size: Annotated[
        int, typer.Option(min=1, help="Slices in one forward pass.")
    ] = BATCH_SIZE,
    report: Annotated[
        bool, typer.Option("--report", help="Write a page in HTML for each volume as well.")
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="Segment again what is done.")] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Share PATH among processes of Ray: auto is this machine or its cluster.",
            metavar="ADDRESS",
        ),
    ] = None,
) -> None:
    """Write masks, overlays and tables of all that is found.

    Files of one folder that are named <volume>_<number>, a stack, and a zip are a volume; any other
    picture is a slice by itself. NIfTI, NRRD and MetaImage hold a volume each: FLAIR, or all three
    sequences; the files of a DICOM study are one. Name three files, or folders with a DICOM series,
    with --pre, --flair and --post; or a study, and with these the numbers of its series. What an
    earlier run has done with the same model is left as it is.

    Exit codes: 0 all is done, 1 something could not be segmented, 2 nothing could be tried.
    """
    named = dict(zip(SEQUENCES, (pre, flair, post), strict=True))
    files = {sequence: path for sequence, path in named.items() if path}
    name, series = flair, {}
    if paths and len(paths) == 1 and files and all(map(str.isdecimal, files.values())):
        series = {sequence: int(number) for sequence, number in files.items()}
        (name,), paths = paths, None
        files = dict.fromkeys(files, name)
    if [bool(paths), bool(files), bool(dicomweb)].count(True) != 1:
        raise typer.BadParameter(
            "Name paths, or one head with --flair, --pre and --post (files or folders, or numbers "
            "of series in one path), or a study with --dicomweb."
        )
    if bool(dicomweb) != bool(study) or (store and not dicomweb):
        raise typer.BadParameter("--dicomweb and --study go together, and --store with them.")
    if ray and not paths:
        raise typer.BadParameter("--ray is for PATH: one head is segmented by one process.")
    try:
        target = Folder.at(output)
        if dicomweb and study:
            pacs = Pacs(dicomweb)
            head = pacs.read_study(study)
        elif paths:
            volumes = find_volumes(*map(Folder.at, paths), leave_out=target)
        else:
            place = Path(name or "volume").absolute()
            title = place.name if place.is_dir() else without_ending(place.name)  # 1.2.840 has none
            head = read_sequences(files, title, series=series)
        predictor = load_model(model, "cpu" if ray else best_device(device), engine)
    except InputError as error:
        _fail(error, code=2)
    outcomes: list[Outcome] = []
    options = overwrite, batch_size, report
    try:
        if not paths:
            outcomes.append(segment_volume(head, predictor, target, *options))
        else:
            with Progress(console=_err, disable=not _err.is_terminal) as progress:
                task = progress.add_task("Files", total=sum(map(len, volumes.values())))
                found = (
                    segment_on_ray(volumes, predictor.checkpoint, target, ray, engine, *options)
                    if ray
                    else segment_volumes(volumes, predictor, target, *options)
                )
                for outcome in found:
                    outcomes.append(outcome)
                    progress.advance(task, outcome.files)
        slices, table = tabulate(outcomes)
        target.write("summary.csv", to_csv(slices))
        target.write("volumes.csv", to_csv(table))
    except InputError as error:
        _fail(error, code=1)
    shown = Table(title=f"{output}: {len(table)} volume(s)", caption=DISCLAIMER)
    shown.add_column("volume", overflow="fold")
    columns = [column for column in table[0] if column not in _NOT_SHOWN]
    for column in columns:
        shown.add_column(column.replace("_", " "), justify="right")
    for row in table[:_MOST_ROWS]:
        shown.add_row(row["volume"], *(_show(row[column]) for column in columns))
    if len(table) > _MOST_ROWS:
        shown.add_row(f"... {len(table) - _MOST_ROWS} more in volumes.csv")
    shown.add_section()
    known = ([row[column] for row in table if row[column] is not None] for column in columns)
    shown.add_row("in all", *(_show(sum(values) if values else None) for values in known))
    _out.print(shown)
    for row in table[:_MOST_ROWS]:
        volume, low, high = row["volume"], row["tumour_ml_low"], row["tumour_ml_high"]
        if row["review"]:
            _out.print(f"{volume}, to review: {row['review']}.")
        if low:
            _out.print(f"{volume}: {low:.1f} to {high:.1f} ml (90 % interval).")
        if row["notes"]:
            _out.print(f"{volume}: {row['notes']}.")
    if before := sum(outcome.done_before for outcome in outcomes):
        _out.print(f"{before} volume(s) were done before; --overwrite segments them again.")
    problems = [row for row in slices if row["problem"]]
    for row in problems[:_MOST_ROWS]:
        _err.print(f"{row['slice']}: {row['problem']}")
    if store:
        try:
            new = pacs.store(target.read(seg_of(head)))
        except InputError as error:
            _fail(error, code=1)
        _out.print("The DICOM SEG " + ("is stored." if new else "was in the PACS before."))
    if problems:
        _fail(f"{len(problems)} file(s) could not be segmented; summary.csv lists them.", code=1)


@app.command()
def serve(
    model: Model = str(SHIPPED_MODEL),
    engine: Engine = "auto",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 8000,
) -> None:
    """Serve the model over HTTP, with a page to try it."""
    try:
        from brain_mri_segmentation.serving.app import create_app
        from brain_mri_segmentation.serving.server import run
    except ImportError as error:
        _fail(
            f"The service needs more packages ({error.name}): "
            "pip install 'brain-mri-segmentation[serving]'",
            code=2,
        )
    try:
        service = create_app(model, engine=engine)
    except InputError as error:
        _fail(error, code=2)
    run(service, host, port)


@app.command()
def info(
    model: Model = str(SHIPPED_MODEL), device: Device = "auto", engine: Engine = "auto"
) -> None:
    """Say which model it is, and what it was trained on."""
    try:
        predictor = load_model(model, best_device(device), engine)
    except InputError as error:
        _fail(error, code=2)
    shown = Table.grid(padding=(0, 2))
    shown.add_column()
    shown.add_column(overflow="fold")
    for name, value in _describe(predictor, model).items():
        shown.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    _out.print(shown)


def _describe(predictor: Predictor, place: str) -> dict[str, object]:
    checkpoint = predictor.checkpoint
    statistics = ("running_mean", "running_var", "num_batches_tracked")  # are no parameters
    weights = checkpoint.weights.items()
    parameters = sum(weight.size for name, weight in weights if not name.endswith(statistics))
    return {
        "version": __version__,
        "model": checkpoint.model_name,
        "from": place,
        "digest": checkpoint.digest,
        "parameters": f"{parameters:,}",
        "trained on": f"{len(checkpoint.metadata.get('train_patients', []))} patients",
        **{
            name: checkpoint.metadata[key]
            for key, name in _DICE.items()
            if key in checkpoint.metadata
        },
        **dict(predictor.preprocessing),
        "engine": predictor.engine.name,
        "device": predictor.engine.device,
        "": DISCLAIMER,
    }


def _show(value: object) -> str:
    return "" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)


def _fail(reason: object, code: int) -> NoReturn:
    _err.print(f"Error: {reason}")
    raise typer.Exit(code)
