"""Fixtures of the runtime's tests."""

from pathlib import Path

import numpy as np
import pytest

from edgepress.runtime.evaluate import Corpus, gather
from tests.export.conftest import bundle_of as bundle_of
from tests.runtime.fakes import BIGRAM_CONTEXT, BIGRAM_VOCAB
from tests.runtime.tiny_bundle import write_bundle


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only; tests that damage a bundle write their own."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def corpus() -> Corpus:
    ids = np.random.default_rng(0).integers(BIGRAM_VOCAB, size=(5, BIGRAM_CONTEXT))
    return gather({"short": ids[:2], "long": ids[2:]})
