"""Snapdragon X Elite (X1E) laptops."""

from edgepress.devices.profile import GB, GIB, Fact, Profile

BRIEF = "Qualcomm Snapdragon X Elite product brief"

PROFILE = Profile(
    name="snapdragon-x-elite",
    title="Snapdragon X Elite",
    memory=Fact(64 * GIB, "bytes", "spec", BRIEF, "2023-10"),
    peak_bandwidth=Fact(136 * GB, "bytes/s", "spec", BRIEF, "2023-10"),
    accelerator=Fact(45e12, "INT8 op/s", "spec", BRIEF, "2023-10"),
    processor=Fact("12x Oryon", "", "spec", BRIEF, "2023-10"),
    cores=Fact(12, "cores", "spec", BRIEF, "2023-10"),
    isa=Fact(
        (
            "neon",
            "dotprod",
            "fp16",
            "i8mm",
            "bf16",
        ),
        "",
        "spec",
        BRIEF,
        "2023-10",
    ),
)
