"""Bundles side by side: bytes against divergence from the reference, speed, memory, and what each of them writes."""

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import edgepress
from edgepress.bundle import TOKENIZER, Bundle, open_bundle
from edgepress.errors import InputError
from edgepress.progress import Track, silent
from edgepress.runtime import providers
from edgepress.runtime.bench import Measurement, Speed, bench
from edgepress.runtime.engine import Engine
from edgepress.runtime.evaluate import (
    Corpus,
    Evaluation,
    LogitsSource,
    Quality,
    evaluate,
    gather,
    reference_log_probs,
)
from edgepress.runtime.session import Session
from edgepress.runtime.tokenizer import Tokenizer
from edgepress.texts import chunks

CONTINUATION_TOKENS = 48
REPETITIONS = 3


@dataclass(frozen=True, kw_only=True)
class Row(Quality):
    """One bundle; the fields of Quality are over all texts.

    Attributes:
        prefill_tokens_per_s, decode_tokens_per_s, load_s, peak_rss_bytes: None where speed was not measured.
        speeds: the same with test sizes, spread and energy.
        domains: name of a text -> its own Quality. worst_domain: the one with the highest mean KL.
        continuation: what the bundle writes after the prompt, greedily; None without a prompt.
        dominated_by: the best bundle that is nowhere worse in bytes and mean KL and better in one; None on the front.
    """

    name: str
    size_bytes: int
    parameters: int
    bits_per_weight: float
    prefill_tokens_per_s: float | None
    decode_tokens_per_s: float | None
    load_s: float | None
    peak_rss_bytes: int | None
    speeds: list[Speed]
    domains: dict[str, Quality]
    worst_domain: str
    continuation: str | None
    dominated_by: str | None


@dataclass(frozen=True)
class Comparison:
    """Rows in the order of the bundles given; `meta` says how, with what and on what they were measured."""

    rows: list[Row]
    meta: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return {"rows": [asdict(row) for row in self.rows], "meta": self.meta}


class SessionLogits:
    """A bundle as a LogitsSource."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def logits(self, ids: np.ndarray) -> Iterator[np.ndarray]:
        for chunk in ids:
            yield self._session.logits(chunk[None])[0]


def compare(
    bundles: Sequence[Path],
    reference: LogitsSource,
    texts: Mapping[str, str],
    *,
    context: int = 512,
    max_chunks: int | None = None,
    provider: str | None = None,
    threads: int | None = None,
    prompt: str | None = None,
    speed: bool = True,
    verify: bool = False,
    reference_name: str = "",
    track: Track = silent,
) -> Comparison:
    """Measure bundles of one model against the model that they were made from.

    Args:
        texts: name -> text. Each is cut into chunks of `context` tokens, of which the first `max_chunks` are used.
        speed: also measure speed, load time and memory, in processes of their own.

    Raises:
        InputError: bundles with different tokenizers or vocabularies, a text shorter than one chunk, a context that
            a bundle does not have, a prompt that does not fit in it.
        OSError: no room for the reference's log-probabilities (see reference_log_probs).
    """
    opened = [open_bundle(path, verify=verify) for path in bundles]
    _check(opened, provider, context)
    tokenizer = Tokenizer(opened[0].path, bos=opened[0].manifest.bos)
    corpus = _corpus(tokenizer, texts, context, max_chunks, opened[0].manifest.bos)
    prompt_ids = None if prompt is None else _prompt_ids(tokenizer, prompt, context)
    measured: Sequence[Measurement | None] = [None] * len(opened)
    if speed:
        measured = bench(bundles, repetitions=REPETITIONS, provider=provider, threads=threads, track=track)
    rows = []
    with reference_log_probs(reference, corpus, opened[0].manifest.vocab_size, track=track) as stored:
        for name, bundle, measurement in zip(names(bundles), opened, measured, strict=True):
            session = Session(bundle, provider=provider, threads=threads, max_length=context)
            evaluation = evaluate(name, SessionLogits(session), corpus, stored, track=track)
            continuation = _continue(session, tokenizer, prompt_ids) if prompt_ids else None
            rows.append(_row(name, bundle, evaluation, measurement, continuation))
    meta = _meta(opened[0], corpus, rows, provider, threads) | {"reference": reference_name, "prompt": prompt}
    return Comparison(_mark_dominated(rows), meta)


def names(bundles: Sequence[Path]) -> list[str]:
    """Folder names, or whole paths where two folders have the same name."""
    short = [path.resolve().name for path in bundles]
    return short if len(set(short)) == len(short) else [str(path) for path in bundles]


def check_tokenizers(folders: Sequence[Path]) -> None:
    """Raise InputError unless all bundles and models share one tokenizer, byte for byte."""
    for folder in folders:
        if not (folder / TOKENIZER).is_file():
            raise InputError(f"{folder} has no {TOKENIZER}, so nothing shows that its tokens are the same; add it")
    first = (folders[0] / TOKENIZER).read_bytes()
    for folder in folders[1:]:
        if (folder / TOKENIZER).read_bytes() != first:
            raise InputError(
                f"{folders[0]} and {folder} have different tokenizers, so their predictions cannot be compared; "
                "compare one model's bundles with that model"
            )


def _check(bundles: Sequence[Bundle], provider: str | None, context: int) -> None:
    """Refuse at once what would fail only after the reference was computed."""
    if not bundles:
        raise InputError("there is nothing to compare; give one or more bundles")
    check_tokenizers([bundle.path for bundle in bundles])
    vocabulary = bundles[0].manifest.vocab_size
    for bundle in bundles:
        manifest = bundle.manifest
        providers.choose_provider(bundle, provider)
        if manifest.vocab_size != vocabulary:
            raise InputError(
                f"{bundles[0].path} has a vocabulary of {vocabulary}, {bundle.path} of {manifest.vocab_size}; "
                "compare bundles of one model"
            )
        if not 4 <= context <= manifest.context:
            raise InputError(f"a context of {context} does not suit {bundle.path}; use 4 to {manifest.context}")


def _corpus(
    tokenizer: Tokenizer, texts: Mapping[str, str], context: int, max_chunks: int | None, bos: int | None
) -> Corpus:
    if not texts:
        raise InputError("there is no text to compare on; give one or more")
    if max_chunks is not None and max_chunks < 1:
        raise InputError(f"{max_chunks} chunks of a text leave nothing to score; use 1 or more")
    cut = {}
    for name, text in texts.items():
        try:
            cut[name] = chunks(tokenizer.encode(text), context, bos)[:max_chunks]
        except InputError as error:
            raise InputError(f"text {name}: {error}") from None
    return gather(cut)


def _prompt_ids(tokenizer: Tokenizer, prompt: str, context: int) -> list[int]:
    """Checked before any work, as the bundles see the prompt only after the long part of it."""
    ids = tokenizer.encode(prompt)
    if not 1 <= len(ids) <= context:
        raise InputError(f"the prompt has {len(ids)} tokens; give 1 to {context} (the context compared in)")
    return ids


def _continue(session: Session, tokenizer: Tokenizer, prompt: list[int]) -> str:
    return "".join(Engine(session, tokenizer).generate(prompt, max_tokens=CONTINUATION_TOKENS))


def _row(
    name: str,
    bundle: Bundle,
    evaluation: Evaluation,
    measured: Measurement | None,
    continuation: str | None,
) -> Row:
    return Row(
        **asdict(evaluation.overall),
        name=name,
        size_bytes=bundle.manifest.size_bytes,
        parameters=bundle.manifest.parameters,
        bits_per_weight=bundle.manifest.bits_per_weight,
        prefill_tokens_per_s=measured.tokens_per_s("prefill") if measured else None,
        decode_tokens_per_s=measured.tokens_per_s("decode") if measured else None,
        load_s=measured.load_s if measured else None,
        peak_rss_bytes=measured.peak_rss_bytes if measured else None,
        speeds=measured.speeds if measured else [],
        domains=dict(evaluation.domains),
        worst_domain=evaluation.worst_domain,
        continuation=continuation,
        dominated_by=None,
    )


def _meta(
    bundle: Bundle, corpus: Corpus, rows: Sequence[Row], provider: str | None, threads: int | None
) -> dict[str, Any]:
    return {
        "edgepress": edgepress.__version__,
        "onnxruntime": providers.onnxruntime().__version__,
        "machine": f"{platform.machine()} {platform.system()}",
        "provider": provider or bundle.manifest.provider,
        "threads": threads,
        "context": corpus.ids.shape[1],
        "scored_tokens": rows[0].tokens,
        "chunks": {domain: found.stop - found.start for domain, found in corpus.domains.items()},
        "reference_perplexity": rows[0].reference_perplexity,
    }


def _mark_dominated(rows: Sequence[Row]) -> list[Row]:
    best = dominated_by([row.size_bytes for row in rows], [row.mean_kl for row in rows])
    return [row if i is None else replace(row, dominated_by=rows[i].name) for row, i in zip(rows, best, strict=True)]


def dominated_by(sizes: Sequence[int], divergences: Sequence[float]) -> list[int | None]:
    """For each point, the best point that is nowhere worse and somewhere better (Pareto), or None on the front."""
    points = list(zip(divergences, sizes, strict=True))

    def better(point: tuple[float, int]) -> list[int]:
        return [i for i, p in enumerate(points) if p != point and p[0] <= point[0] and p[1] <= point[1]]

    return [min(better(point), key=lambda i: points[i], default=None) for point in points]
