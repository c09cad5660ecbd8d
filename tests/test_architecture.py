"""Each literal reads what transformers writes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from edgepress.checkpoint import open_checkpoint
from tests.tiny import OF_TYPE


@pytest.mark.parametrize("model_type", OF_TYPE)
def test_every_literal_consumes_a_checkpoint_that_transformers_wrote(
    model_type: str, tiny: Callable[[str], Path]
) -> None:
    assert open_checkpoint(tiny(model_type)).spec.model_type == model_type
