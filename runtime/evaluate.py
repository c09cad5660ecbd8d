"""How far a bundle's predictions are from the reference's, as `llama-perplexity --kl-divergence` measures it.

Texts are cut into chunks of `context` tokens; the second half of each chunk is scored, so that every scored token has
at least half a context before it. At each scored position

    KL = sum_v p_ref(v) * (ln p_ref(v) - ln p(v))        in nats

and perplexity is exp of the mean negative log-likelihood of the text's own next token. llama-perplexity keeps the
reference in 16 bits and leaves out terms with p_ref < e^-16; here every term counts, in float32.
"""

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import numpy as np

from edgepress.errors import InputError, RuntimeFailure
from edgepress.progress import Track, silent

SCORES = np.dtype([("kl", "f8"), ("nll", "f8"), ("reference_nll", "f8"), ("delta_p", "f8"), ("same_top", "?")])


class LogitsSource(Protocol):
    """Anything that computes logits of whole chunks: a checkpoint through transformers, or a bundle."""

    def logits(self, ids: np.ndarray) -> Iterator[np.ndarray]:
        """For each chunk of ids (int64 [n, S]), in order, its logits (float32 [S, V])."""
        ...


@dataclass(frozen=True)
class Corpus:
    """Chunks of several texts, in one array.

    Attributes:
        ids: int64 [n, context].
        domains: name of a text -> its rows of `ids`.
    """

    ids: np.ndarray
    domains: Mapping[str, slice]

    @property
    def first(self) -> int:
        """The first scored position; the last one is context - 2, whose next token is the chunk's last."""
        return self.ids.shape[1] // 2

    @property
    def scored(self) -> int:
        """Scored positions per chunk."""
        return self.ids.shape[1] - 1 - self.first


def gather(chunks: Mapping[str, np.ndarray]) -> Corpus:
    """Join each text's chunks (int64 [n, context]) into one corpus."""
    ends = np.cumsum([len(ids) for ids in chunks.values()])
    rows = (slice(int(end) - len(ids), int(end)) for ids, end in zip(chunks.values(), ends, strict=True))
    return Corpus(np.concatenate(list(chunks.values())), dict(zip(chunks, rows, strict=True)))


@dataclass(frozen=True)
class Quality:
    """Statistics over scored tokens.

    Attributes:
        mean_kl, median_kl, p99_kl, p999_kl: of the KL, in nats. mean_kl_error: standard error of the mean.
        perplexity_ratio: to the reference's.
        top1_agreement: share of tokens where both find the same token most probable.
        rms_delta_p: root mean square of the difference in the probability of the text's own next token.
    """

    tokens: int
    mean_kl: float
    mean_kl_error: float
    median_kl: float
    p99_kl: float
    p999_kl: float
    perplexity: float
    reference_perplexity: float
    perplexity_ratio: float
    top1_agreement: float
    rms_delta_p: float


@dataclass(frozen=True)
class Evaluation:
    """Quality over all scored tokens, per text, and the name of the text with the highest mean KL."""

    overall: Quality
    domains: Mapping[str, Quality]
    worst_domain: str


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """float32 [..., V] -> float32 [..., V] natural log-probabilities, normalised in float64."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    total = np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)
    return shifted - np.log(total).astype(np.float32)


def score(reference: np.ndarray, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Compare predictions position by position.

    Args:
        reference: float32 [S, V] log-probabilities of the reference.
        logits: float32 [S, V] of the bundle.
        targets: int64 [S], the text's own next tokens.

    Returns:
        SCORES [S].
    """
    own = log_softmax(logits)
    at = np.arange(len(targets)), targets
    scores = np.empty(len(targets), SCORES)
    scores["kl"] = (np.exp(reference) * (reference - own)).sum(axis=-1, dtype=np.float64)
    scores["nll"], scores["reference_nll"] = -own[at], -reference[at]
    scores["delta_p"] = np.exp(own[at]) - np.exp(reference[at])
    scores["same_top"] = own.argmax(axis=-1) == reference.argmax(axis=-1)
    return scores


def summarize(scores: np.ndarray) -> Quality:
    """SCORES of any shape -> their statistics; percentiles interpolate linearly, as llama-perplexity's do."""
    median, p99, p999 = np.quantile(scores["kl"], [0.5, 0.99, 0.999])
    nll, reference = scores["nll"].mean(), scores["reference_nll"].mean()
    return Quality(
        tokens=scores.size,
        mean_kl=float(scores["kl"].mean()),
        mean_kl_error=float(scores["kl"].std() / np.sqrt(max(scores.size - 1, 1))),
        median_kl=float(median),
        p99_kl=float(p99),
        p999_kl=float(p999),
        perplexity=float(np.exp(nll)),
        reference_perplexity=float(np.exp(reference)),
        perplexity_ratio=float(np.exp(nll - reference)),
        top1_agreement=float(scores["same_top"].mean()),
        rms_delta_p=float(np.sqrt(np.square(scores["delta_p"]).mean())),
    )


@contextmanager
def reference_log_probs(
    reference: LogitsSource, corpus: Corpus, vocab_size: int, *, track: Track = silent
) -> Iterator[np.ndarray]:
    """Compute the reference once; yields float32 [n, scored, V] log-probabilities, mapped from a temporary file.

    The file takes 4 * n * scored * V bytes in the temporary folder (TMPDIR) and is deleted on leaving.

    Raises:
        InputError: the reference's vocabulary is not `vocab_size`.
        OSError: the disk is too small, with the file's name.
    """
    shape = (len(corpus.ids), corpus.scored, vocab_size)
    with TemporaryDirectory(prefix="edgepress-") as folder:
        path = Path(folder) / "reference.f32"
        if 4 * np.prod(shape, dtype=np.int64) > shutil.disk_usage(folder).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        _store(path, _scored_log_probs(reference, corpus, vocab_size, track))
        yield np.memmap(path, np.float32, "r", shape=shape)


def _scored_log_probs(reference: LogitsSource, corpus: Corpus, vocab_size: int, track: Track) -> Iterator[np.ndarray]:
    rows = track(range(len(corpus.ids)), "reference")
    for _, logits in zip(rows, reference.logits(corpus.ids), strict=True):
        if logits.shape[-1] != vocab_size:
            raise InputError(
                f"the reference has a vocabulary of {logits.shape[-1]}, the bundles of {vocab_size}; "
                "compare bundles with the model that they were made from"
            )
        yield log_softmax(logits[corpus.first : -1])


def _store(path: Path, arrays: Iterator[np.ndarray]) -> None:
    try:
        with path.open("wb") as file:
            for array in arrays:
                file.write(np.ascontiguousarray(array, np.float32).data)
    except OSError as error:  # a write names no file
        raise OSError(error.errno, error.strerror, error.filename or str(path)) from None


def evaluate(
    name: str, source: LogitsSource, corpus: Corpus, reference: np.ndarray, *, track: Track = silent
) -> Evaluation:
    """Score what is called `name` against `reference_log_probs` of the same corpus.

    Raises:
        RuntimeFailure: it computes NaN or infinity.
    """
    scores = np.empty(reference.shape[:2], SCORES)
    chunks = track(range(len(corpus.ids)), f"evaluate {name}")
    for row, logits in zip(chunks, source.logits(corpus.ids), strict=True):
        scores[row] = score(reference[row], logits[corpus.first : -1], corpus.ids[row, corpus.first + 1 :])
        if not np.isfinite(scores["kl"][row]).all():
            raise RuntimeFailure(f"{name} computes NaN or infinity in chunk {row}; it is damaged or overflows")
    domains = {domain: summarize(scores[rows]) for domain, rows in corpus.domains.items()}
    return Evaluation(summarize(scores), domains, max(domains, key=lambda domain: domains[domain].mean_kl))
