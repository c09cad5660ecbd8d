"""Ryzen AI Max+ 395 (Strix Halo); the measured bandwidth is the integrated GPU's."""

from edgepress.devices.profile import GB, GIB, Fact, Profile

SPECS = "AMD product page, Ryzen AI Max+ 395"
TRACKER = "llm-tracker.info/_TOORG/Strix-Halo, rocm_bandwidth_test"

PROFILE = Profile(
    name="ryzen-ai-max-395",
    title="AMD Ryzen AI Max+ 395",
    memory=Fact(128 * GIB, "bytes", "spec", SPECS, "2025-01"),
    peak_bandwidth=Fact(256 * GB, "bytes/s", "spec", SPECS, "2025-01"),
    bandwidth=Fact(212 * GB, "bytes/s", "measured", TRACKER, "2025"),
    accelerator=Fact(50e12, "INT8 op/s", "spec", SPECS, "2025-01"),
    processor=Fact("16x Zen 5", "", "spec", SPECS, "2025-01"),
    cores=Fact(16, "cores", "spec", SPECS, "2025-01"),
    isa=Fact(
        (
            "avx2",
            "fma",
            "f16c",
            "avx512f",
            "avx512bw",
            "avx512vl",
            "avx512_vnni",
            "avx512_bf16",
        ),
        "",
        "spec",
        SPECS,
        "2025-01",
    ),
    power=Fact((120, 120), "W", "spec", SPECS, "2025-01"),
)
