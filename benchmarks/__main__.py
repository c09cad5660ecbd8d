"""`make bench`, or python -m benchmarks: every figure beside the best peer's, measured in turns in one run."""

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import prepare
from benchmarks.compress import measure_compression
from benchmarks.experts import LEVELS, measure_experts
from benchmarks.layer import WIDTHS
from benchmarks.limited import obstacle
from benchmarks.machine import describe, read_ahead
from benchmarks.memory import measure_memory
from benchmarks.rounds import write_text
from benchmarks.routing import measure_routing
from benchmarks.tables import Table, markdown
from benchmarks.whole import Entrants, measure_whole, read_cost
from edgepress.cli.common import tracker
from edgepress.devices.probe import usable_cores
from edgepress.errors import EdgepressError
from edgepress.progress import Track


class Part(StrEnum):
    experts = "experts"
    routing = "routing"
    compress = "compress"
    whole = "whole"
    memory = "memory"


LLAMA_BIN = Path("build/llama.cpp/bin")  # where `make bench` builds it

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    only: Annotated[Part | None, typer.Option(help="Leave the other parts out.", show_default=False)] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of every engine.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Of every engine.")] = usable_cores(Path("/")),
    output: Annotated[Path, typer.Option(help="Folder for results and what they need.")] = Path("bench-output"),
    llama_bin: Annotated[Path, typer.Option(envvar="LLAMA_BIN", help="Folder of its programs.")] = LLAMA_BIN,
    checkpoint: Annotated[Path | None, typer.Option(help="A Qwen3-MoE instead of random weights.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Its 4-bit bundle, if there is one.")] = None,
) -> None:
    """Measure, and write OUTPUT/benchmarks.json and .md. Interrupted, it goes on where it was when run again.

    Close other programs first. The whole model needs 12 GB of disk and 4 GB of memory, and an hour of work the first
    time; remove OUTPUT to measure anew.
    """
    wanted = list(Part) if only is None else [only]
    try:
        report = _measure(wanted, rounds, threads, output, llama_bin, checkpoint, bundle)
    except EdgepressError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(report)


def _measure(
    wanted: list[Part], rounds: int, threads: int, output: Path, llama_bin: Path, checkpoint: Path | None,
    bundle: Path | None,
) -> str:  # fmt: skip
    output.mkdir(parents=True, exist_ok=True)
    machine = describe(threads, llama_bin / "llama-bench" if set(wanted) - {Part.experts, Part.routing} else None)
    tables: list[Table] = []
    with tracker() as track:
        if Part.experts in wanted:
            tables += [measure_experts(output, title, rounds, threads, track=track) for title in WIDTHS]
        if Part.routing in wanted:
            tables.append(measure_routing(output, rounds, threads, track=track))
        if Part.compress in wanted:
            model = checkpoint or prepare.checkpoint(output / "work")
            half = prepare.half_gguf(output / "work", model)
            quantize = llama_bin / "llama-quantize"
            tables.append(measure_compression(output, model, half, quantize, rounds, threads, track=track))
        if {Part.whole, Part.memory} & {*wanted}:
            entrants = _entrants(output / "work", checkpoint, bundle, llama_bin, threads, track)
        if Part.whole in wanted:
            tables.append(measure_whole(output, entrants, rounds, threads, track=track))
        if Part.memory in wanted:
            machine["read-ahead of the disk"] = read_ahead(output)
            if why := obstacle():
                machine["bigger than memory"] = f"not measured: {why}"
            else:
                tables.append(measure_memory(output, entrants, rounds, threads, track=track))
    machine["load average at the end"] = " ".join(f"{load:.2f}" for load in os.getloadavg())
    report = markdown(tables, machine)
    write_text(output / "benchmarks.md", report)
    results = {"machine": machine, "tables": [table.to_dict() for table in tables]}
    write_text(output / "benchmarks.json", json.dumps(results, indent=1))
    return report


def _entrants(
    work: Path, checkpoint: Path | None, bundle: Path | None, llama_bin: Path, threads: int, track: Track
) -> Entrants:
    model = checkpoint or prepare.checkpoint(work)
    pressed = bundle or prepare.bundle(work, model, track)
    bundles = {f"accuracy_level {level}": prepare.at_level(work, pressed, level) for level in LEVELS}
    ggufs = prepare.ggufs(work, model, llama_bin, threads)
    return Entrants(bundles, ggufs, llama_bin / "llama-bench", read_cost(model, pressed))


if __name__ == "__main__":
    app()
