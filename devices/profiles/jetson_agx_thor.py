"""Jetson AGX Thor developer kit (T5000)."""

from edgepress.devices.profile import GB, GIB, Fact, Profile

SHEET = "NVIDIA Jetson Thor series data sheet"
PUBLISHED = "published llama.cpp runs"

PROFILE = Profile(
    name="jetson-agx-thor",
    title="Jetson AGX Thor",
    memory=Fact(128 * GIB, "bytes", "spec", SHEET, "2025-08"),
    peak_bandwidth=Fact(273 * GB, "bytes/s", "spec", SHEET, "2025-08"),
    bandwidth=Fact(147 * GB, "bytes/s", "measured", PUBLISHED, "2026"),
    accelerator=Fact(2070e12, "sparse FP4 op/s", "spec", SHEET, "2025-08"),
    processor=Fact("14x Neoverse-V3AE", "", "spec", SHEET, "2025-08"),
    cores=Fact(14, "cores", "spec", SHEET, "2025-08"),
    isa=Fact(
        (
            "neon",
            "dotprod",
            "fp16",
            "i8mm",
            "bf16",
            "sve2",
        ),
        "",
        "spec",
        SHEET,
        "2025-08",
    ),
    power=Fact((40, 130), "W", "spec", SHEET, "2025-08"),
)
