"""Bundles of the tiny checkpoints and of the sample model, written once per session."""

from collections.abc import Callable
from pathlib import Path

import pytest

from edgepress.checkpoint import open_checkpoint
from edgepress.compress import Packer
from edgepress.export import export
from edgepress.plan import uniform_plan
from tests.tiny import SAMPLE

Bundles = Callable[..., Path]


@pytest.fixture(scope="session")
def bundle_of(tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    """(model_type or "sample", width, provider) -> (checkpoint folder, bundle folder)."""
    made: dict[tuple[str, str, str], tuple[Path, Path]] = {}

    def bundle(name: str, width: str = "16", provider: str = "cpu") -> tuple[Path, Path]:
        key = (name, width, provider)
        if key not in made:
            model = SAMPLE if name == "sample" else tiny(name)
            folder = tmp_path_factory.mktemp("bundles") / "-".join(key)
            checkpoint = open_checkpoint(model)
            plan = uniform_plan(checkpoint.spec, width, dtype16=checkpoint.dtype16)
            export(Packer(checkpoint, plan), folder, provider=provider, with_library=provider == "cpu")
            made[key] = (model, folder)
        return made[key]

    return bundle
