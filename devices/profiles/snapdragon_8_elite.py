"""Snapdragon 8 Elite, with UFS 4.0 storage of unknown speed."""

from edgepress.devices.profile import GB, GIB, Fact, Profile

BRIEF = "Qualcomm Snapdragon 8 Elite product brief"

PROFILE = Profile(
    name="snapdragon-8-elite",
    title="Snapdragon 8 Elite",
    memory=Fact(24 * GIB, "bytes", "spec", BRIEF, "2024-10"),
    peak_bandwidth=Fact(84.8 * GB, "bytes/s", "spec", BRIEF, "2024-10"),
    processor=Fact("2x Oryon prime, 6x Oryon performance", "", "spec", BRIEF, "2024-10"),
    cores=Fact(8, "cores", "spec", BRIEF, "2024-10"),
)
