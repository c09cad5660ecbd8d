"""Jetson Orin Nano 8 GB in its Super power mode."""

from edgepress.devices.profile import GB, GIB, Fact, Profile

SHEET = "NVIDIA Jetson Orin Nano Super data sheet"
DERIVED = "80% of the peak, as published read tests of this board reach"

PROFILE = Profile(
    name="jetson-orin-nano-super",
    title="Jetson Orin Nano Super",
    memory=Fact(8 * GIB, "bytes", "spec", SHEET, "2024-12"),
    peak_bandwidth=Fact(102 * GB, "bytes/s", "spec", SHEET, "2024-12"),
    bandwidth=Fact(0.8 * 102 * GB, "bytes/s", "derived", DERIVED, "2026"),
    accelerator=Fact(67e12, "sparse INT8 op/s", "spec", SHEET, "2024-12"),
    processor=Fact("6x Cortex-A78AE", "", "spec", SHEET, "2024-12"),
    cores=Fact(6, "cores", "spec", SHEET, "2024-12"),
    isa=Fact(
        (
            "neon",
            "dotprod",
            "fp16",
        ),
        "",
        "spec",
        SHEET,
        "2024-12",
    ),
    power=Fact((7, 25), "W", "spec", SHEET, "2024-12"),
)
