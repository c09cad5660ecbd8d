"""Intel N100 mini computers with one DDR5-4800 module."""

from edgepress.devices.profile import GB, GIB, Fact, Profile

ARK = "Intel ARK, Processor N100"
PUBLISHED = "published llama.cpp runs"

PROFILE = Profile(
    name="intel-n100",
    title="Intel N100",
    memory=Fact(16 * GIB, "bytes", "spec", ARK, "2023-01"),
    peak_bandwidth=Fact(38.4 * GB, "bytes/s", "spec", ARK, "2023-01"),
    bandwidth=Fact(14 * GB, "bytes/s", "measured", PUBLISHED, "2026"),
    processor=Fact("4x Gracemont", "", "spec", ARK, "2023-01"),
    cores=Fact(4, "cores", "spec", ARK, "2023-01"),
    isa=Fact(
        (
            "avx2",
            "fma",
            "f16c",
            "avx_vnni",
        ),
        "",
        "spec",
        ARK,
        "2023-01",
    ),
    power=Fact((6, 6), "W", "spec", ARK, "2023-01"),
)
