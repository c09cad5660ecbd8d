"""GeForce RTX 4060; storage is the host's."""

from edgepress.devices.profile import GB, GIB, Fact, Profile

SPECS = "NVIDIA product page, GeForce RTX 4060"

PROFILE = Profile(
    name="rtx-4060",
    title="GeForce RTX 4060",
    provider="cuda",
    memory=Fact(8 * GIB, "bytes", "spec", SPECS, "2023-06"),
    peak_bandwidth=Fact(272 * GB, "bytes/s", "spec", SPECS, "2023-06"),
)
