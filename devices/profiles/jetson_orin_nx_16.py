"""Jetson Orin NX, the 16 GB module."""

from edgepress.devices.profile import GIB, Fact, Profile

SHEET = "NVIDIA Jetson Orin NX series data sheet"

PROFILE = Profile(
    name="jetson-orin-nx-16",
    title="Jetson Orin NX 16 GB",
    memory=Fact(16 * GIB, "bytes", "spec", SHEET, "2023"),
    accelerator=Fact(100e12, "sparse INT8 op/s", "spec", SHEET, "2023"),
    isa=Fact(
        (
            "neon",
            "dotprod",
            "fp16",
        ),
        "",
        "spec",
        SHEET,
        "2023",
    ),
    power=Fact((10, 25), "W", "spec", SHEET, "2023"),
)
