"""Every figure of a profile says where it comes from."""

import re
from dataclasses import fields

import pytest

from edgepress.devices import Fact, Profile, known_profiles, load_profile
from edgepress.errors import InputError

FACTS = [
    pytest.param(getattr(load_profile(name), f.name), id=f"{name}.{f.name}")
    for name in known_profiles()
    for f in fields(Profile)
    if isinstance(getattr(load_profile(name), f.name), Fact)
]


@pytest.mark.parametrize("fact", FACTS)
def test_a_figure_has_kind_source_and_date(fact: Fact) -> None:
    assert fact.kind in ("spec", "measured", "derived")
    assert fact.source
    assert re.fullmatch(r"20\d\d(-[01]\d)?", fact.date)


@pytest.mark.parametrize("fact", [p for p in FACTS if not isinstance(p.values[0].value, str | tuple)])
def test_a_number_has_a_unit_and_is_positive(fact: Fact) -> None:
    assert fact.unit
    assert fact.value > 0


@pytest.mark.parametrize("name", known_profiles())
def test_the_file_is_named_after_the_device(name: str) -> None:
    assert load_profile(name).name == name
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)


@pytest.mark.parametrize("name", known_profiles())
def test_what_was_measured_stays_under_the_peak(name: str) -> None:
    profile = load_profile(name)
    for seen in (profile.bandwidth, profile.moe_bandwidth):
        if seen and profile.peak_bandwidth:
            assert seen.value <= profile.peak_bandwidth.value


@pytest.mark.parametrize(
    ("name", "memory_gib", "peak"),
    [("raspberry-pi-5", 16, 17e9), ("rtx-4090", 24, 1008e9), ("intel-n100", 16, 38.4e9), ("apple-m4-max", 128, 546e9)],
)
def test_figures_of_data_sheets(name: str, memory_gib: int, peak: float) -> None:
    profile = load_profile(name)
    assert profile.memory and profile.memory.value == memory_gib * 2**30
    assert profile.peak_bandwidth and profile.peak_bandwidth.value == pytest.approx(peak)


def test_what_is_unknown_is_none() -> None:
    assert load_profile("jetson-orin-nx-8").peak_bandwidth is None


@pytest.mark.parametrize(
    ("name", "meant"), [("raspberry-pi5", "raspberry-pi-5"), ("RTX 4090", "rtx-4090"), ("thor", "jetson-agx-thor")]
)
def test_an_unknown_name_is_answered_with_the_closest(name: str, meant: str) -> None:
    with pytest.raises(InputError, match=meant):
        load_profile(name)


def test_a_name_like_no_other_is_answered_with_the_list() -> None:
    with pytest.raises(InputError, match="known: apple-m4"):
        load_profile("zzzzzz")


@pytest.mark.parametrize("name", ["__init__", "../x", "", "raspberry_pi_5"])
def test_only_device_names_are_names(name: str) -> None:
    with pytest.raises(InputError):
        load_profile(name)
