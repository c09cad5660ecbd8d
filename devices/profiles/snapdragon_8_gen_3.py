"""Snapdragon 8 Gen 3: UFS 4.0 reads 4.0 GB/s in sequence, 3.5 at random by 512 KB, 0.45 at random by 4 KB."""

from edgepress.devices.profile import GB, GIB, Fact, Profile

BRIEF = "Qualcomm Snapdragon 8 Gen 3 product brief"
PUBLISHED = "published UFS 4.0 read tests"

PROFILE = Profile(
    name="snapdragon-8-gen-3",
    title="Snapdragon 8 Gen 3",
    memory=Fact(16 * GIB, "bytes", "spec", BRIEF, "2023-10"),
    peak_bandwidth=Fact(76.8 * GB, "bytes/s", "spec", BRIEF, "2023-10"),
    storage=Fact(4.0 * GB, "bytes/s", "measured", PUBLISHED, "2024"),
    processor=Fact("1x Cortex-X4, 5x Cortex-A720, 2x Cortex-A520", "", "spec", BRIEF, "2023-10"),
    cores=Fact(8, "cores", "spec", BRIEF, "2023-10"),
)
