"""Jetson Orin NX, the 8 GB module."""

from edgepress.devices.profile import GIB, Fact, Profile

SHEET = "NVIDIA Jetson Orin NX series data sheet"

PROFILE = Profile(
    name="jetson-orin-nx-8",
    title="Jetson Orin NX 8 GB",
    memory=Fact(8 * GIB, "bytes", "spec", SHEET, "2023"),
    accelerator=Fact(70e12, "sparse INT8 op/s", "spec", SHEET, "2023"),
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
    power=Fact((10, 20), "W", "spec", SHEET, "2023"),
)
