"""Apple M4 Max, the variant with the most memory."""

from edgepress.devices.profile import GB, GIB, Fact, Profile

SPECS = "Apple press release and technical specifications"

PROFILE = Profile(
    name="apple-m4-max",
    title="Apple M4 Max",
    memory=Fact(128 * GIB, "bytes", "spec", SPECS, "2024-10"),
    peak_bandwidth=Fact(546 * GB, "bytes/s", "spec", SPECS, "2024-10"),
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
        SPECS,
        "2024-10",
    ),
)
