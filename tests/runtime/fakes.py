"""Rows of a comparison that was never run."""

from edgepress.runtime.compare import Comparison, Row
from edgepress.runtime.evaluate import Quality

QUALITY = Quality(
    tokens=100, mean_kl=0.02, mean_kl_error=0.001, median_kl=0.01, p99_kl=0.3, p999_kl=0.5, perplexity=12.5,
    reference_perplexity=12.0, perplexity_ratio=12.5 / 12, top1_agreement=0.93, rms_delta_p=0.04
)  # fmt: skip


def row(name: str, size: int = 10_000_000, mean_kl: float = 0.02, **changes: object) -> Row:
    fields: dict[str, object] = {
        **vars(QUALITY), "mean_kl": mean_kl, "name": name, "size_bytes": size, "parameters": 12_000_000,
        "bits_per_weight": size * 8 / 12e6, "prefill_tokens_per_s": 400.0, "decode_tokens_per_s": 80.0, "load_s": 0.12,
        "peak_rss_bytes": 90_000_000, "speeds": [], "domains": {"novel": QUALITY, "code": QUALITY},
        "worst_domain": "code", "continuation": "and so on", "dominated_by": None,
    }  # fmt: skip
    return Row(**(fields | changes))  # type: ignore[arg-type]


def comparison(*rows: Row, prompt: str | None = "Once") -> Comparison:
    return Comparison(list(rows), {"scored_tokens": 100, "reference": "tiny", "prompt": prompt})
