"""Raspberry Pi 5, 16 GB: the storage is an NVMe drive on the PCIe 2 lane."""

from edgepress.devices.profile import GB, GIB, Fact, Profile

BRIEF = "Raspberry Pi 5 product brief"
PAPER = "hellomatik.com/research/hitting-the-memory-wall-30b-moe-raspberry-pi"
PUBLISHED = "published llama.cpp runs of mixture-of-experts models"
TRM = "Arm Cortex-A76 reference manual"

PROFILE = Profile(
    name="raspberry-pi-5",
    title="Raspberry Pi 5",
    memory=Fact(16 * GIB, "bytes", "spec", BRIEF, "2025-01"),
    peak_bandwidth=Fact(17 * GB, "bytes/s", "spec", PAPER, "2026-05"),
    bandwidth=Fact(11.4 * GB, "bytes/s", "measured", PAPER, "2026-05"),
    moe_bandwidth=Fact(8 * GB, "bytes/s", "measured", PUBLISHED, "2026"),
    storage=Fact(0.5 * GB, "bytes/s", "spec", BRIEF, "2025-01"),
    processor=Fact("4x Cortex-A76", "", "spec", BRIEF, "2025-01"),
    cores=Fact(4, "cores", "spec", BRIEF, "2025-01"),
    isa=Fact(
        (
            "neon",
            "dotprod",
            "fp16",
        ),
        "",
        "spec",
        TRM,
        "2023",
    ),
    power=Fact((11, 13), "W", "measured", PUBLISHED, "2026"),
)
