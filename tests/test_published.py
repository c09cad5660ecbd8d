"""Published models of any size are read from their config and headers alone."""

from pathlib import Path

import pytest

from edgepress.cli.devices import read_model
from edgepress.cli.inspecting import inspect_model
from edgepress.devices.planner import plan_for
from tests.headers import DEEPSEEK_R1, write_headers


@pytest.fixture(scope="module")
def deepseek_r1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_headers(tmp_path_factory.mktemp("published") / "DeepSeek-R1", DEEPSEEK_R1)


def test_inspect_reads_671_billion_parameters(deepseek_r1: Path) -> None:
    facts = inspect_model(str(deepseek_r1))
    assert facts["parameters"] == 671_026_419_200
    assert facts["active_parameters"] == pytest.approx(37e9, rel=0.02)  # the card counts the embedding too
    assert facts["kv_bytes_per_token"] == 61 * (512 + 64) * 4
    assert facts["dtypes"] == ["BF16", "F32", "F8_E4M3"]


def test_plan_reads_671_billion_parameters(deepseek_r1: Path) -> None:
    spec, _ = read_model(str(deepseek_r1))
    prediction = plan_for(spec, max_size=400 * 10**9)
    assert prediction.width == "4"
    assert prediction.cost.parameters == 671_026_419_200
    assert prediction.memory["kv"] == 4096 * 61 * (512 + 64) * 4


def test_kimi_k2_is_deepseek_v3_of_another_name(tmp_path: Path) -> None:
    changes = {
        "model_type": "kimi_k2", "num_hidden_layers": 2, "first_k_dense_replace": 1, "n_routed_experts": 384,
        "n_group": 1, "topk_group": 1, "num_attention_heads": 64, "num_key_value_heads": 64, "vocab_size": 163840,
    }  # fmt: skip
    folder = write_headers(tmp_path / "model", {**DEEPSEEK_R1, **changes})
    facts = inspect_model(str(folder))
    assert (facts["model_type"], facts["experts"]["count"]) == ("deepseek_v3", 384)
