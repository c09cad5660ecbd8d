"""`compare`: how far bundles are from the model that they were made from."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.markup import escape
from rich.table import Table

from edgepress.bundle import MANIFEST, open_bundle
from edgepress.cache import default_cache
from edgepress.cli.common import Json, making, print_json, stdout_console, tracker
from edgepress.cli.measure import Bundles, On, Threads, Verify
from edgepress.errors import InputError, RuntimeFailure
from edgepress.progress import Track

if TYPE_CHECKING:
    from edgepress.runtime.comparison import Comparison
    from edgepress.runtime.evaluate import LogitsSource

T = TypeVar("T")

Texts = Annotated[list[Path], typer.Option("--text", help="UTF-8 text to score; may be repeated.", show_default=False)]
Keep = Annotated[
    bool, typer.Option("--cache/--no-cache", help="Keep what is computed, and use it again; see EDGEPRESS_CACHE.")
]


def register(app: typer.Typer) -> None:
    app.command()(compare)


def compare(
    bundles: Bundles,
    reference: Annotated[str, typer.Option(help="The original model, or a bundle.", show_default=False)],
    text: Texts,
    task: Annotated[
        list[Path] | None, typer.Option(help="Multiple-choice questions (JSONL); may be repeated.", show_default=False)
    ] = None,
    context: Annotated[int, typer.Option(help="Tokens per chunk; the second half of each is scored.")] = 512,
    chunks: Annotated[int | None, typer.Option(min=1, help="At most this many chunks of each text.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Also show what each bundle writes after this.")] = None,
    speed: Annotated[bool, typer.Option(help="Measure speed, load time and memory too.")] = True,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write JSON, PNG and HTML here.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the three files.")] = False,
    provider: On = None,
    threads: Threads = None,
    verify: Verify = False,
    keep: Keep = True,
    json: Json = False,
) -> None:
    """Measure accuracy against size: KL, perplexity and agreement as llama-perplexity defines them.

    A bundle is dominated by another one that is no larger, and closer to the reference by more than chance (paired
    bootstrap over chunks, 95 %). The reference's predictions and the scores of each bundle are kept in EDGEPRESS_CACHE,
    by default ~/.cache/edgepress, up to EDGEPRESS_CACHE_SIZE, by default 10GB: run again after an interruption, it
    goes on with the bundles that are left.

    A line of a task is {"question": TEXT, "choices": [TEXT, ...], "answer": INDEX}. Answers are chosen by likelihood
    per byte; flips are those that turn from right to wrong or back, beside the reference's.

    Of embedding models: the cosine with the original's embedding of each line; --chunks is how many lines of each text.
    """
    from edgepress.runtime.choices import read_questions
    from edgepress.runtime.compare import compare as run
    from edgepress.runtime.report import check_output, write_report
    from edgepress.texts import read_text

    if output and not force:
        check_output(output)
    texts = read_all(text, read_text)
    tasks = read_all(task or [], read_questions)
    opened = open_bundle(bundles[0])
    if opened.manifest.task == "embedding":
        if output or task:
            raise InputError("embeddings are compared in numbers only; leave out --output and --task, and use --json")
        from edgepress.cli.encoders import compare_embeddings

        compare_embeddings(bundles, reference, texts, chunks, provider, threads, json)
        return
    cache = default_cache() if keep else None
    with making(output) if output else nullcontext():
        with tracker() as track:
            source, digest = open_reference(reference, opened.path, threads, verify, track)
            comparison = run(
                bundles,
                source,
                texts,
                context=context,
                max_chunks=chunks,
                provider=provider,
                threads=threads,
                prompt=prompt,
                tasks=tasks,
                speed=speed,
                verify=verify,
                reference_name=reference,
                reference_digest=digest() if cache else None,
                cache=cache,
                track=track,
            )
        if json:
            print_json(comparison.to_dict())
        else:
            print_comparison(comparison)
        if output:
            write_report(comparison, output, overwrite=force)


def read_all(paths: Sequence[Path], read: Callable[[Path], T]) -> dict[str, T]:
    """Name -> what `read` finds in the file of that name; raises InputError where two files have one name."""
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        raise InputError(f"two files are called {max(names, key=names.count)}; rename one, for names label the results")
    return {name: read(path) for name, path in zip(names, paths, strict=True)}


def open_reference(
    reference: str, bundle: Path, threads: int | None, verify: bool, track: Track
) -> "tuple[LogitsSource, Callable[[], str]]":
    """The model through transformers, or a bundle, and what computes its hash; it must share the bundle's tokenizer."""
    from edgepress.runtime.compare import SessionLogits, check_tokenizers
    from edgepress.runtime.digests import bundle_digest, files_digest
    from edgepress.runtime.session import Session

    if (Path(reference) / MANIFEST).exists():
        session = Session(reference, threads=threads, verify=verify)
        check_tokenizers([session.path, bundle])
        return SessionLogits(session), lambda: bundle_digest(session.path)
    try:
        from edgepress.checkpoint import open_checkpoint
        from edgepress.compress.reference import ReferenceModel
    except ImportError as missing:
        raise RuntimeFailure(
            f"a model as reference needs {missing.name}; pip install edgepress[compress], or give a bundle as reference"
        ) from None
    checkpoint = open_checkpoint(reference)
    check_tokenizers([checkpoint.path, bundle])
    config = [checkpoint.source / "config.json"] if checkpoint.source.is_dir() else []
    return ReferenceModel(checkpoint, track=track), lambda: files_digest([*config, *set(checkpoint.files.values())])


def print_comparison(comparison: "Comparison") -> None:
    """The tables on stdout (dominated bundles dim), then what each bundle wrote."""
    from edgepress.runtime.tables import tables

    console = stdout_console()
    for number, table in enumerate(tables(comparison)):
        if number:
            console.print(f"\n{table.title}", markup=False, highlight=False)
        sheet = Table(box=None)
        for place, head in enumerate(table.heads):
            sheet.add_column(head, justify="right" if place else "left", overflow="fold")
        for cells, dim in zip(table.lines, table.dim, strict=True):
            sheet.add_row(*map(escape, cells), style="dim" if dim else None)
        console.print(sheet)
    for row in comparison.rows:
        if row.continuation is not None:
            text = f"\n{row.name}: {comparison.meta['prompt']}{row.continuation}"
            console.print(text, markup=False, highlight=False, soft_wrap=True)
