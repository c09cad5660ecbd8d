"""Core Ultra 7 258V (Lunar Lake), memory on the package."""

from edgepress.devices.profile import GB, GIB, Fact, Profile

ARK = "Intel ARK, Core Ultra 7 258V"

PROFILE = Profile(
    name="core-ultra-258v",
    title="Intel Core Ultra 7 258V",
    memory=Fact(32 * GIB, "bytes", "spec", ARK, "2024-09"),
    peak_bandwidth=Fact(136 * GB, "bytes/s", "spec", ARK, "2024-09"),
    accelerator=Fact(48e12, "INT8 op/s", "spec", ARK, "2024-09"),
    processor=Fact("4 P-cores, 4 E-cores", "", "spec", ARK, "2024-09"),
    cores=Fact(8, "cores", "spec", ARK, "2024-09"),
    isa=Fact(
        (
            "avx2",
            "fma",
            "f16c",
            "avx_vnni",
            "avx_vnni_int8",
        ),
        "",
        "spec",
        ARK,
        "2024-09",
    ),
    power=Fact((17, 30), "W", "spec", ARK, "2024-09"),
)
