"""A comparison as files: JSON with everything, a picture of bytes against divergence, and a page that holds both."""

import json
from base64 import b64encode
from collections.abc import Callable, Sequence
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jinja2 import Environment

from edgepress.errors import InputError, RuntimeFailure
from edgepress.runtime.compare import Comparison, Row

JSON, PNG, HTML = FILES = ("comparison.json", "comparison.png", "comparison.html")
FLOOR = 1e-7  # nats; below it a mean KL is rounding, and a logarithmic axis needs a bottom

Cell = tuple[str, Callable[[Row], str]]
COLUMNS: Sequence[Cell] = (
    ("bundle", lambda r: r.name),
    ("size MB", lambda r: f"{r.size_bytes / 1e6:.1f}"),
    ("bits/weight", lambda r: f"{r.bits_per_weight:.2f}"),
    ("mean KL", lambda r: f"{r.mean_kl:.3g}"),
    ("p99 KL", lambda r: f"{r.p99_kl:.3g}"),
    ("same top", lambda r: f"{r.top1_agreement:.1%}"),
    ("perplexity", lambda r: f"{r.perplexity:.2f}"),
    ("worst text", lambda r: f"{r.worst_domain} {r.domains[r.worst_domain].mean_kl:.3g}"),
    ("decode tok/s", lambda r: _number(r.decode_tokens_per_s)),
    ("prefill tok/s", lambda r: _number(r.prefill_tokens_per_s)),
    ("load s", lambda r: _number(r.load_s, 2)),
    ("peak MB", lambda r: _number(r.peak_rss_bytes and r.peak_rss_bytes / 1e6)),
    ("dominated by", lambda r: r.dominated_by or ""),
)


def _number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def check_output(folder: Path) -> None:
    """Raise InputError if the folder already holds one of the files that `write_report` writes."""
    for name in FILES:
        if (folder / name).exists():
            raise InputError(f"{folder / name} exists; remove it, choose another folder, or overwrite it with --force")


def write_report(comparison: Comparison, folder: Path, *, overwrite: bool = False) -> None:
    """Write comparison.json, comparison.png and comparison.html; they appear when all of them are whole.

    Raises:
        InputError: a file exists and `overwrite` is not set.
        RuntimeFailure: matplotlib is missing.
        OSError: the folder cannot be written, or the disk is full.
    """
    if not overwrite:
        check_output(folder)
    picture = draw(comparison)
    text = json.dumps(comparison.to_dict(), indent=1)
    contents = {JSON: text.encode(), PNG: picture, HTML: page(comparison, picture).encode()}
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".comparison-") as temporary:
        for name, data in contents.items():
            _write(Path(temporary) / name, data)
        for name in contents:
            (Path(temporary) / name).replace(folder / name)


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:  # a write names no file
        raise OSError(error.errno, error.strerror, error.filename or str(path)) from None


def page(comparison: Comparison, picture: bytes) -> str:
    """A self-contained HTML page; every text in it is escaped."""
    template = (files("edgepress.runtime") / "comparison.html.j2").read_text(encoding="utf-8")
    return (
        Environment(autoescape=True)
        .from_string(template)
        .render(
            meta=comparison.meta,
            titles=[title for title, _ in COLUMNS],
            table=[(row, [cell(row) for _, cell in COLUMNS]) for row in comparison.rows],
            domains=list(comparison.rows[0].domains),
            png=b64encode(picture).decode(),
        )
    )


def draw(comparison: Comparison) -> bytes:
    """PNG: megabytes against mean KL (logarithmic); a line joins the front, dominated bundles are hollow and grey.

    Raises:
        RuntimeFailure: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise RuntimeFailure("drawing needs matplotlib; pip install edgepress[report]") from None
    figure = Figure(figsize=(9, 5.5), dpi=130, layout="constrained")
    axes = figure.subplots()
    _draw_points(axes, comparison.rows)
    axes.set_yscale("log")
    axes.set_xlabel("size of the bundle in MB")
    axes.set_ylabel("mean KL from the reference in nats per token")
    axes.set_title(f"Size against accuracy, {comparison.meta['scored_tokens']} tokens; lower left is better")
    axes.grid(which="major", alpha=0.3)
    axes.margins(0.12)
    axes.legend()
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw_points(axes: Any, rows: Sequence[Row]) -> None:
    front = sorted((r for r in rows if r.dominated_by is None), key=lambda r: r.size_bytes)
    dominated = [r for r in rows if r.dominated_by is not None]
    axes.plot(*_points(front), "o-", color="#1764ab", label="front: nothing is both smaller and closer")
    if dominated:
        axes.plot(*_points(dominated), "o", color="#999999", markerfacecolor="none", label="dominated")
    middle = (min(r.size_bytes for r in rows) + max(r.size_bytes for r in rows)) / 2
    for i, row in enumerate(sorted(rows, key=lambda r: r.size_bytes)):
        color = "#999999" if row.dominated_by else "#111111"
        label = f"{row.name} (dominated by {row.dominated_by})" if row.dominated_by else row.name
        left = row.size_bytes > middle or (i % 2 and not row.dominated_by)  # labels of neighbours part ways
        axes.annotate(
            label,
            (row.size_bytes / 1e6, max(row.mean_kl, FLOOR)),
            xytext=(-7, -12) if left else (7, 5),
            textcoords="offset points",
            ha="right" if left else "left",
            color=color,
            fontsize=9,
        )


def _points(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    return [r.size_bytes / 1e6 for r in rows], [max(r.mean_kl, FLOOR) for r in rows]
