"""GeForce RTX 5090; storage is the host's."""

from edgepress.devices.profile import GB, GIB, Fact, Profile

SPECS = "NVIDIA product page, GeForce RTX 5090"

PROFILE = Profile(
    name="rtx-5090",
    title="GeForce RTX 5090",
    provider="cuda",
    memory=Fact(32 * GIB, "bytes", "spec", SPECS, "2025-01"),
    peak_bandwidth=Fact(1792 * GB, "bytes/s", "spec", SPECS, "2025-01"),
    power=Fact((575, 575), "W", "spec", SPECS, "2025-01"),
)
