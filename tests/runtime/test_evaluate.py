"""Divergence statistics against independent float64 computations by scipy."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax as scipy_log_softmax
from scipy.special import rel_entr
from scipy.stats import sem

from edgepress.errors import InputError, RuntimeFailure
from edgepress.runtime import evaluate as module
from edgepress.runtime.evaluate import (
    Corpus,
    evaluate,
    gather,
    log_softmax,
    reference_log_probs,
    score,
    summarize,
)

VOCAB, CONTEXT = 50, 16


class Table:
    """Fixed logits per (previous token), plus noise: a bigram model."""

    def __init__(self, noise: float = 0.0, vocab: int = VOCAB) -> None:
        rng = np.random.default_rng(1)
        self.table = (rng.normal(size=(vocab, vocab)) * 3).astype(np.float32)
        self.table += np.random.default_rng(2).normal(size=self.table.shape).astype(np.float32) * np.float32(noise)
        self.calls = 0

    def logits(self, ids: np.ndarray) -> Iterator[np.ndarray]:
        self.calls += 1
        yield from (self.table[row % len(self.table)] for row in ids)


@pytest.fixture
def corpus() -> Corpus:
    ids = np.random.default_rng(0).integers(VOCAB, size=(5, CONTEXT))
    return gather({"short": ids[:2], "long": ids[2:]})


def expected_kl(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    p, q = (np.exp(scipy_log_softmax(x.astype(np.float64), axis=-1)) for x in (reference, other))
    return rel_entr(p, q).sum(axis=-1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 12), st.floats(0, 3))
def test_kl_agrees_with_scipy_in_float64(seed: int, spread: float, noise: float) -> None:
    rng = np.random.default_rng(seed)
    reference = (rng.normal(size=(7, 1000)) * spread).astype(np.float32)
    other = (reference + rng.normal(size=reference.shape) * noise).astype(np.float32)
    scores = score(log_softmax(reference), other, np.zeros(7, np.int64))
    np.testing.assert_allclose(scores["kl"], expected_kl(reference, other), rtol=1e-4, atol=2e-6)


def test_likelihood_of_the_targets_agrees_with_scipy() -> None:
    rng = np.random.default_rng(3)
    reference, other = rng.normal(size=(2, 9, VOCAB)).astype(np.float32)
    targets = rng.integers(VOCAB, size=9)
    scores = score(log_softmax(reference), other, targets)
    expected = scipy_log_softmax(other.astype(np.float64), axis=-1)[np.arange(9), targets]
    np.testing.assert_allclose(scores["nll"], -expected, rtol=1e-6)
    p_reference = np.exp(scipy_log_softmax(reference.astype(np.float64), axis=-1))[np.arange(9), targets]
    np.testing.assert_allclose(scores["delta_p"], np.exp(expected) - p_reference, atol=1e-6)


def test_huge_logits_do_not_overflow() -> None:
    logits = np.array([[1e30, -1e30, 0.0], [500.0, 499.0, -1e4]], np.float32)
    expected = scipy_log_softmax(logits.astype(np.float64), axis=-1)
    np.testing.assert_allclose(log_softmax(logits), expected, rtol=1e-6)


def test_percentiles_interpolate_between_tokens() -> None:
    scores = np.zeros(1001, module.SCORES)
    scores["kl"] = np.random.default_rng(0).permutation(1001)
    quality = summarize(scores)
    assert (quality.median_kl, quality.p99_kl, quality.p999_kl) == pytest.approx((500, 990, 999))


def test_the_error_of_the_mean_is_its_standard_error() -> None:
    scores = np.zeros(400, module.SCORES)
    scores["kl"] = np.random.default_rng(0).exponential(size=400)
    assert summarize(scores).mean_kl_error == pytest.approx(sem(scores["kl"]))


def test_perplexity_is_exp_of_the_mean_and_its_ratio_is_to_the_reference() -> None:
    scores = np.zeros(2, module.SCORES)
    scores["nll"], scores["reference_nll"] = np.log([2, 8]), np.log([2, 2])
    quality = summarize(scores)
    assert (quality.perplexity, quality.reference_perplexity, quality.perplexity_ratio) == pytest.approx((4, 2, 2))


def test_delta_p_is_a_root_mean_square() -> None:
    scores = np.zeros(2, module.SCORES)
    scores["delta_p"] = 0.3, -0.4
    assert summarize(scores).rms_delta_p == pytest.approx((0.125) ** 0.5)


@pytest.mark.parametrize(("context", "first", "scored"), [(512, 256, 255), (16, 8, 7), (9, 4, 4)])
def test_the_second_half_of_a_chunk_is_scored_as_llama_perplexity_does(context: int, first: int, scored: int) -> None:
    corpus = gather({"text": np.zeros((1, context), np.int64)})
    assert (corpus.first, corpus.scored) == (first, scored)


def test_the_reference_against_itself_has_no_divergence(corpus: Corpus) -> None:
    with reference_log_probs(Table(), corpus, VOCAB) as stored:
        result = evaluate("other", Table(), corpus, stored)
    assert abs(result.overall.mean_kl) < 1e-6
    assert result.overall.top1_agreement == 1
    assert result.overall.perplexity_ratio == pytest.approx(1)


def test_whole_evaluation_agrees_with_a_direct_computation(corpus: Corpus) -> None:
    reference, other = Table(), Table(noise=0.7)
    with reference_log_probs(reference, corpus, VOCAB) as stored:
        result = evaluate("other", other, corpus, stored)
    positions = corpus.ids[:, CONTEXT // 2 : -1]
    kl = expected_kl(reference.table[positions], other.table[positions])
    same = reference.table[positions].argmax(-1) == other.table[positions].argmax(-1)
    assert result.overall.mean_kl == pytest.approx(kl.mean(), rel=1e-5)
    assert result.overall.top1_agreement == pytest.approx(same.mean())
    assert result.overall.tokens == kl.size == 5 * 7
    assert {n: q.mean_kl for n, q in result.domains.items()} == pytest.approx(
        {"short": kl[:2].mean(), "long": kl[2:].mean()}, rel=1e-5
    )
    assert result.worst_domain == ("short" if kl[:2].mean() > kl[2:].mean() else "long")


def test_the_reference_is_computed_once_for_all_texts(corpus: Corpus) -> None:
    reference = Table()
    with reference_log_probs(reference, corpus, VOCAB):
        pass
    assert reference.calls == 1


def test_the_temporary_file_is_deleted_even_after_a_failure(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(KeyError), reference_log_probs(Table(), corpus, VOCAB):
        assert len(list(tmp_path.iterdir())) == 1
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_another_vocabulary_is_refused(corpus: Corpus) -> None:
    with pytest.raises(InputError, match="vocabulary of 60, the bundles of 50"), \
            reference_log_probs(Table(vocab=60), corpus, VOCAB):  # fmt: skip
        pass


def test_a_reference_too_big_for_the_disk_is_refused_before_any_work(corpus: Corpus) -> None:
    reference = Table()
    with pytest.raises(OSError, match=r"reference\.f32") as caught, reference_log_probs(reference, corpus, 2**50):
        pass
    assert caught.value.errno == errno.ENOSPC
    assert reference.calls == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_disk_that_fills_up_is_reported_with_the_name_of_the_file() -> None:
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
        module._store(Path("/dev/full"), iter([np.zeros(10, np.float32)]))
    assert caught.value.filename == "/dev/full"


def test_nan_logits_are_an_error(corpus: Corpus) -> None:
    broken = Table()
    broken.table[corpus.ids[1, CONTEXT - 2]] = np.nan
    with (
        reference_log_probs(Table(), corpus, VOCAB) as stored,
        pytest.raises(RuntimeFailure, match="broken computes NaN or infinity in chunk 1"),
    ):
        evaluate("broken", broken, corpus, stored)
