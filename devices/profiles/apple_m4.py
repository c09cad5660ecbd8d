"""Apple M4, the variant with the most memory."""

from edgepress.devices.profile import GB, GIB, Fact, Profile

SPECS = "Apple press release and technical specifications"

PROFILE = Profile(
    name="apple-m4",
    title="Apple M4",
    memory=Fact(32 * GIB, "bytes", "spec", SPECS, "2024-10"),
    peak_bandwidth=Fact(120 * GB, "bytes/s", "spec", SPECS, "2024-10"),
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
