"""Apple M4 Pro, the variant with the most memory."""

from edgepress.devices.profile import GB, GIB, Fact, Profile

SPECS = "Apple press release and technical specifications"
PUBLISHED = "published read tests"

PROFILE = Profile(
    name="apple-m4-pro",
    title="Apple M4 Pro",
    memory=Fact(64 * GIB, "bytes", "spec", SPECS, "2024-10"),
    peak_bandwidth=Fact(273 * GB, "bytes/s", "spec", SPECS, "2024-10"),
    bandwidth=Fact(219 * GB, "bytes/s", "measured", PUBLISHED, "2026"),
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
