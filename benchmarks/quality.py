"""Divergence at equal bytes: our bundles beside llama.cpp's types with an importance matrix, on the same text.

    python -m benchmarks.quality MODEL --calibrate TEXT... --text TEXT --output FOLDER

Every recipe (`--recipe "NAME: export options"`) is pressed to just the bytes of each file of llama.cpp's.
"""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.prepare import once
from benchmarks.processes import run
from benchmarks.rivals import CONTEXT, TYPES, LlamaCpp, Rival
from benchmarks.rounds import write_text
from edgepress.checkpoint import open_checkpoint
from edgepress.cli.common import tracker
from edgepress.compress.reference import ReferenceModel
from edgepress.devices.probe import usable_cores
from edgepress.progress import Track
from edgepress.runtime.compare import compare
from edgepress.texts import read_text

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Match:
    """A bundle of ours beside a file of llama.cpp that takes at least as many bytes."""

    recipe: str
    rival: Rival
    size_bytes: int
    mean_kl: float
    mean_kl_error: float
    perplexity_ratio: float
    top1_agreement: float

    @property
    def ratio(self) -> float:
        return self.mean_kl / self.rival.mean_kl


@app.command()
def main(
    model: Path,
    calibrate: Annotated[list[Path], typer.Option(help="Texts to calibrate on, for every engine.")],
    text: Annotated[Path, typer.Option(help="The text to score; none of the others.")],
    output: Annotated[Path, typer.Option(help="Folder for results and what they need.")],
    recipe: Annotated[list[str], typer.Option(help='"name: export options", such as "kquant: --quantizer kquant".')],
    chunks: Annotated[int, typer.Option(help="Of the text, 512 tokens each.")] = 20,
    types: Annotated[list[str], typer.Option("--type", help="llama.cpp's types.")] = list(TYPES),  # noqa: B006
    llama_bin: Annotated[Path, typer.Option(envvar="LLAMA_BIN")] = Path("build/llama.cpp/bin"),
    threads: Annotated[int, typer.Option(min=1)] = usable_cores(Path("/")),
) -> None:
    """Measure, and write OUTPUT/quality.json and .md. Interrupted, it goes on where it was when run again."""
    output.mkdir(parents=True, exist_ok=True)
    with tracker() as track:
        engine = LlamaCpp(llama_bin, output, threads)
        rivals = list(engine.rivals(model, calibrate, text, chunks, types, track))
        matches = _matches(model, calibrate, text, chunks, _recipes(recipe), rivals, output, track)
    write_text(output / "quality.json", json.dumps([asdict(m) for m in matches], indent=1))
    report = markdown(rivals, matches)
    write_text(output / "quality.md", report)
    typer.echo(report)


def _recipes(given: Sequence[str]) -> dict[str, list[str]]:
    return {name.strip(): shlex.split(options) for name, _, options in (text.partition(":") for text in given)}


def _matches(
    model: Path, calibrate: Sequence[Path], text: Path, chunks: int, recipes: dict[str, list[str]],
    rivals: Sequence[Rival], output: Path, track: Track,
) -> list[Match]:  # fmt: skip
    pairs = [(name, rival) for rival in rivals for name in recipes]
    bundles = [
        once(
            output / f"{name}-{rival.name}",
            partial(_press, model, calibrate, [*recipes[name], "--max-size", str(rival.size_bytes)]),
        )
        for name, rival in track(pairs, "pressing")
    ]
    reference: Any = ReferenceModel(open_checkpoint(model), track=track)
    compared = compare(bundles, reference, {text.stem: read_text(text)}, context=CONTEXT, max_chunks=chunks,
                       speed=False, track=track)  # fmt: skip
    return [
        Match(name, rival, row.size_bytes, row.mean_kl, row.mean_kl_error, row.perplexity_ratio, row.top1_agreement)
        for (name, rival), row in zip(pairs, compared.rows, strict=True)
    ]


def _press(model: Path, calibrate: Sequence[Path], options: Sequence[str], out: Path) -> None:
    texts = [word for path in calibrate for word in ("--calibrate", str(path))]
    run([Path(sys.executable).with_name("edgepress"), "export", model, "-o", out, *texts, *options])


def markdown(rivals: Sequence[Rival], matches: Sequence[Match]) -> str:
    """One line per type, smallest first; a ratio below 1 is in our favour. Types that another one beats are marked."""
    names = list(dict.fromkeys(m.recipe for m in matches))
    lines = [
        f"| llama.cpp | MB | mean KL | {' | '.join(f'{n} MB | KL | ratio' for n in names)} |",
        f"|---|---:|---:|{'---:|' * 3 * len(names)}",
    ]
    for rival in sorted(rivals, key=lambda r: r.size_bytes):
        beaten = any(r.size_bytes <= rival.size_bytes and r.mean_kl < rival.mean_kl for r in rivals)
        name = f"{rival.name} (beaten)" if beaten else rival.name
        cells = [name, f"{rival.size_bytes / 1e6:.1f}", f"{rival.mean_kl:.5f}"]
        for match in (m for n in names for m in matches if m.recipe == n and m.rival == rival):
            cells += [f"{match.size_bytes / 1e6:.1f}", f"{match.mean_kl:.5f}", f"{match.ratio:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    app()
