"""GeForce RTX 4090; storage is the host's."""

from edgepress.devices.profile import GB, GIB, Fact, Profile

SPECS = "NVIDIA product page, GeForce RTX 4090"
PUBLISHED = "published runs of mixture-of-experts models"

PROFILE = Profile(
    name="rtx-4090",
    title="GeForce RTX 4090",
    provider="cuda",
    memory=Fact(24 * GIB, "bytes", "spec", SPECS, "2022-10"),
    peak_bandwidth=Fact(1008 * GB, "bytes/s", "spec", SPECS, "2022-10"),
    moe_bandwidth=Fact(386 * GB, "bytes/s", "measured", PUBLISHED, "2026"),
    power=Fact((450, 450), "W", "spec", SPECS, "2022-10"),
)
