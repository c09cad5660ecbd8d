"""NVIDIA H200 SXM; storage is the host's."""

from edgepress.devices.profile import GB, Fact, Profile

SHEET = "NVIDIA H200 data sheet"
PUBLISHED = "ONNX Runtime running a mixture-of-experts model"

PROFILE = Profile(
    name="h200-sxm",
    title="NVIDIA H200 SXM",
    provider="cuda",
    memory=Fact(141 * GB, "bytes", "spec", SHEET, "2023-11"),
    peak_bandwidth=Fact(4800 * GB, "bytes/s", "spec", SHEET, "2023-11"),
    moe_bandwidth=Fact(750 * GB, "bytes/s", "measured", PUBLISHED, "2026"),
    power=Fact((700, 700), "W", "spec", SHEET, "2023-11"),
)
