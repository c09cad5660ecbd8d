"""`bench` and `compare`: how fast a bundle is, and how far it is from the model that it was made from."""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from edgepress.bundle import MANIFEST, open_bundle
from edgepress.cli.common import ExpertMemory, Json, expert_bytes, human_bytes, making, print_json, tracker
from edgepress.cli.press import Provider
from edgepress.errors import InputError, RuntimeFailure
from edgepress.progress import Track

if TYPE_CHECKING:
    from edgepress.runtime.bench import Measurement
    from edgepress.runtime.compare import Comparison
    from edgepress.runtime.evaluate import LogitsSource

PLAIN_WIDTH = 170  # columns of a table that does not go to a terminal

Bundles = Annotated[list[Path], typer.Argument(help="Bundle folders.", show_default=False)]
On = Annotated[Provider | None, typer.Option(help="Where to run; by default what the bundle was made for.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads; by default one per core.", show_default=False)]
Verify = Annotated[bool, typer.Option("--verify", help="Check the hash of every file first.")]
Texts = Annotated[list[Path], typer.Option("--text", help="UTF-8 text to score; may be repeated.", show_default=False)]


def register(app: typer.Typer) -> None:
    app.command()(bench)
    app.command()(compare)


def bench(
    bundles: Bundles,
    prompt_tokens: Annotated[int, typer.Option(min=0, help="Tokens of the prefill test; 0 leaves it out.")] = 512,
    generate: Annotated[int, typer.Option(min=0, help="Tokens of the decode test; 0 leaves it out.")] = 128,
    repetitions: Annotated[int, typer.Option(min=1, help="Each in a process of its own.")] = 5,
    depth: Annotated[int, typer.Option(min=0, help="Tokens in the context before the decode test.")] = 0,
    text: Annotated[Path | None, typer.Option(help="Measure with this text too, beside random tokens.")] = None,
    provider: On = None,
    threads: Threads = None,
    verify: Verify = False,
    expert_memory: ExpertMemory = None,
    json: Json = False,
) -> None:
    """Measure speed, memory, load time and energy, by llama-bench's definitions."""
    from edgepress.runtime.bench import Sizes
    from edgepress.runtime.bench import bench as run
    from edgepress.texts import read_text

    with tracker() as track:
        measured = run(
            bundles,
            sizes=Sizes(prompt_tokens, generate, depth),
            repetitions=repetitions,
            text=None if text is None else read_text(text),
            provider=provider,
            threads=threads,
            verify=verify,
            expert_memory=expert_bytes(expert_memory),
            track=track,
        )
    if json:
        print_json({"bundles": [asdict(m) for m in measured]})
    else:
        _console().print(speed_table(measured))


def compare(
    bundles: Bundles,
    reference: Annotated[str, typer.Option(help="The original model, or a bundle.", show_default=False)],
    text: Texts,
    context: Annotated[int, typer.Option(help="Tokens per chunk; the second half of each is scored.")] = 512,
    chunks: Annotated[int | None, typer.Option(min=1, help="At most this many chunks of each text.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Also show what each bundle writes after this.")] = None,
    speed: Annotated[bool, typer.Option(help="Measure speed, load time and memory too.")] = True,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write JSON, PNG and HTML here.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the three files.")] = False,
    provider: On = None,
    threads: Threads = None,
    verify: Verify = False,
    json: Json = False,
) -> None:
    """Measure accuracy against size: KL, perplexity and agreement as llama-perplexity defines them.

    Of embedding models: the cosine with the original's embedding of each line; --chunks is how many lines of each text.
    """
    from edgepress.runtime.compare import compare as run
    from edgepress.runtime.report import check_output, write_report
    from edgepress.texts import read_text

    if output and not force:
        check_output(output)
    names = [path.stem for path in text]
    if len(set(names)) < len(names):
        raise InputError(f"two texts are called {max(names, key=names.count)}; rename one, for names label the results")
    texts = {name: read_text(path) for name, path in zip(names, text, strict=True)}
    opened = open_bundle(bundles[0])
    first = opened.path
    if opened.manifest.task == "embedding":
        if output:
            raise InputError("embeddings are compared in numbers only; leave out --output, and use --json")
        from edgepress.cli.encoders import compare_embeddings

        compare_embeddings(bundles, reference, texts, chunks, provider, threads, json)
        return
    with making(output) if output else nullcontext():
        with tracker() as track:
            comparison = run(
                bundles,
                _open_reference(reference, first, threads, verify, track),
                texts,
                context=context,
                max_chunks=chunks,
                provider=provider,
                threads=threads,
                prompt=prompt,
                speed=speed,
                verify=verify,
                reference_name=reference,
                track=track,
            )
        if json:
            print_json(comparison.to_dict())
        else:
            print_comparison(comparison)
        if output:
            write_report(comparison, output, overwrite=force)


def _open_reference(reference: str, bundle: Path, threads: int | None, verify: bool, track: Track) -> "LogitsSource":
    """The model through transformers, or a bundle; it must share the bundle's tokenizer."""
    from edgepress.runtime.compare import SessionLogits, check_tokenizers
    from edgepress.runtime.session import Session

    if (Path(reference) / MANIFEST).exists():
        session = Session(reference, threads=threads, verify=verify)
        check_tokenizers([session.path, bundle])
        return SessionLogits(session)
    try:
        from edgepress.checkpoint import open_checkpoint
        from edgepress.compress.reference import ReferenceModel
    except ImportError as missing:
        raise RuntimeFailure(
            f"a model as reference needs {missing.name}; pip install edgepress[compress], or give a bundle as reference"
        ) from None
    checkpoint = open_checkpoint(reference)
    check_tokenizers([checkpoint.path, bundle])
    return ReferenceModel(checkpoint, track=track)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)


def speed_table(measured: "Sequence[Measurement]") -> Table:
    """One line per bundle and test."""
    scopes = sorted({scope for m in measured for s in m.speeds for scope in s.tokens_per_joule})
    table = Table("bundle", "size", "provider", "test", box=None)
    for title in (
        "tok/s",
        "sd",
        *(f"tok/J {scope}" for scope in scopes),
        "load s",
        "peak memory",
        "KV/token",
        "read/token",
    ):
        table.add_column(title, justify="right")
    for m in measured:
        for s in m.speeds:
            energy = ["-" if (j := s.tokens_per_joule.get(scope)) is None else f"{j:.2f}" for scope in scopes]
            read = "-" if s.read_bytes_per_token is None else human_bytes(s.read_bytes_per_token)
            table.add_row(m.name, human_bytes(m.size_bytes), m.provider, s.test, f"{s.tokens_per_s:.1f}", f"{s.sd:.1f}",
                          *energy, f"{m.load_s:.2f}", human_bytes(m.peak_rss_bytes),
                          human_bytes(m.kv_bytes_per_token), read)  # fmt: skip
    return table


def print_comparison(comparison: "Comparison") -> None:
    """The table on stdout (dominated bundles dim), then what each bundle wrote."""
    from edgepress.runtime.report import COLUMNS

    table = Table(box=None)
    for number, (title, _) in enumerate(COLUMNS):
        table.add_column(title, justify="right" if number else "left", overflow="fold")
    for row in comparison.rows:
        table.add_row(*(cell(row) for _, cell in COLUMNS), style="dim" if row.dominated_by else None)
    console = _console()
    console.print(table)
    for row in comparison.rows:
        if row.continuation is not None:
            text = f"\n{row.name}: {comparison.meta['prompt']}{row.continuation}"
            console.print(text, markup=False, highlight=False, soft_wrap=True)
