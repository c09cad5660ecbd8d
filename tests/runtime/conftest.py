"""Fixtures of the runtime's tests."""

from pathlib import Path

import pytest

from tests.runtime.tiny_bundle import write_bundle


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only; tests that damage a bundle write their own."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "tiny")
