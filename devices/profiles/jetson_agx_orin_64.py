"""Jetson AGX Orin, the 64 GB module: llama.cpp was seen at 58 GB/s, MLC at 107."""

from edgepress.devices.profile import GB, GIB, Fact, Profile

SHEET = "NVIDIA Jetson AGX Orin series technical brief v1.2"
PUBLISHED = "published llama.cpp runs"

PROFILE = Profile(
    name="jetson-agx-orin-64",
    title="Jetson AGX Orin 64 GB",
    memory=Fact(64 * GIB, "bytes", "spec", SHEET, "2022"),
    peak_bandwidth=Fact(200 * GB, "bytes/s", "spec", SHEET, "2022"),
    bandwidth=Fact(58 * GB, "bytes/s", "measured", PUBLISHED, "2026"),
    accelerator=Fact(275e12, "sparse INT8 op/s", "spec", SHEET, "2022"),
    processor=Fact("12x Cortex-A78AE", "", "spec", SHEET, "2022"),
    cores=Fact(12, "cores", "spec", SHEET, "2022"),
    isa=Fact(
        (
            "neon",
            "dotprod",
            "fp16",
        ),
        "",
        "spec",
        SHEET,
        "2022",
    ),
    power=Fact((15, 60), "W", "spec", SHEET, "2022"),
)
