"""`Linear` against numpy, in every variant that this machine runs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels import reference
from tests.kernels.nodes import VARIANTS, linear, supported, variant
from tests.kernels.reference import Array, Bank, assert_within, random_bank, relative_error

TOLERANCE = {0: 1e-5, 2: 1e-5, 4: 1e-4}  # of each accuracy_level, against the same rounding in numpy
QUANTIZED = [(3, False), (3, True), (4, False), (4, True), (5, False), (6, False), (8, False), (8, True)]
SUPPORTED = [v for v in VARIANTS if supported(v)]


def check(name: str, bank: Bank, tokens: int, level: int, block: int, seed: int = 0, bias: Array | None = None) -> None:
    x = np.random.default_rng(seed).standard_normal((tokens, bank.values.shape[-1])).astype(np.float32)
    with variant(name):
        y = linear(x, bank, bias, accuracy_level=level, block_size=block)
    assert_within(y, reference.linear(x, bank, bias, level))


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("level", TOLERANCE)
@pytest.mark.parametrize("block", [16, 32, 64, 128])
@pytest.mark.parametrize(("bits", "asymmetric"), QUANTIZED)
def test_every_width_and_block_size(name: str, level: int, block: int, bits: int, asymmetric: bool) -> None:
    if not supported(name):
        pytest.skip(f"no {name} on this machine")
    rng = np.random.default_rng(bits)
    for columns in (block, 3 * block, 2048 + 5 * block):  # the kernels cut rows at 512 and 2048
        check(name, random_bank(rng, (1, 7, columns), bits, asymmetric, block).dense, 5, level, block)


@pytest.mark.parametrize("name", SUPPORTED)
@pytest.mark.parametrize("bfloat", [False, True])
@pytest.mark.parametrize("columns", [1, 15, 16, 17, 512, 515])
def test_16_bit_rows_of_any_length(name: str, bfloat: bool, columns: int) -> None:
    check(name, random_bank(np.random.default_rng(1), (1, 9, columns), 16, bfloat=bfloat).dense, 6, 4, 32)


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(SUPPORTED), level=st.sampled_from(list(TOLERANCE)), block=st.sampled_from([16, 32, 64, 128]),
    form=st.sampled_from([*QUANTIZED, (16, False)]), bfloat=st.booleans(),
    blocks=st.integers(1, 40), rows=st.integers(1, 140), tokens=st.integers(0, 70), biased=st.booleans(),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_any_matrix(
    name: str, level: int, block: int, form: tuple[int, bool], bfloat: bool, blocks: int, rows: int, tokens: int,
    biased: bool, seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    bank = random_bank(rng, (1, rows, blocks * block), *form, block, bfloat).dense
    check(name, bank, tokens, level, block, seed, rng.standard_normal(rows).astype(np.float32) if biased else None)


@pytest.mark.parametrize("name", SUPPORTED)
@pytest.mark.parametrize("level", [2, 4])
def test_extreme_codes_do_not_overflow(name: str, level: int) -> None:
    """Codes 0 and 255 against activations of full scale: the largest sums that quantized products can reach."""
    for code in (0, 255):
        weight, scales = np.full((2, 256), code, np.uint8), np.ones((2, 8), np.float16)
        bank = Bank(8, False, (weight, scales), np.full((2, 256), code - 128.0))
        x = np.full((1, 256), -3.0, np.float32)
        with variant(name):
            y = linear(x, bank, accuracy_level=level)
        assert relative_error(y, x.astype(np.float64) @ bank.values.T) <= 1e-6


@pytest.mark.parametrize("name", SUPPORTED)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("mean", [0, 3])
def test_int16_activations_are_close_to_float_activations(name: str, bits: int, mean: float) -> None:
    rng = np.random.default_rng(8)
    bank = random_bank(rng, (1, 70, 2048), bits, True).dense
    x = (rng.standard_normal((13, 2048)) + mean).astype(np.float32)
    with variant(name):
        y = linear(x, bank, accuracy_level=2)
    assert relative_error(y, x.astype(np.float64) @ bank.values.T) <= 1e-4


@pytest.mark.parametrize("name", SUPPORTED)
def test_half_precision_scales_of_every_kind(name: str) -> None:
    """Subnormal, largest, negative and zero float16 scales."""
    scales = np.array([[2**-24, -(2**-20), 65504, 0]], np.float16)
    bank = Bank(8, False, (np.full((1, 128), 129, np.uint8), scales), np.repeat(scales.astype(np.float64), 32, axis=1))
    for unit in range(4):
        x = np.zeros((1, 128), np.float32)
        x[0, unit * 32 : unit * 32 + 32] = 1
        with variant(name):
            assert relative_error(linear(x, bank), x @ bank.values.T) <= 1e-6


@pytest.mark.parametrize("name", SUPPORTED)
@pytest.mark.parametrize("level", [2, 4])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_reach_the_output(name: str, level: int, value: float) -> None:
    bank = random_bank(np.random.default_rng(3), (1, 3, 64), 4).dense
    x = np.ones((2, 64), np.float32)
    x[1, 40] = value
    with variant(name):
        y = linear(x, bank, accuracy_level=level)
    assert np.isfinite(y[0]).all() and not np.isfinite(y[1]).any()


@pytest.mark.parametrize("name", SUPPORTED)
@pytest.mark.parametrize("level", [2, 4])
def test_tiny_and_zero_activations(name: str, level: int) -> None:
    bank = random_bank(np.random.default_rng(4), (1, 3, 64), 8).dense
    x = np.zeros((3, 64), np.float32)
    x[1] = 1e-44  # its scale rounds to zero
    x[2, 0] = 1e-30
    with variant(name):
        y = linear(x, bank, accuracy_level=level)
    assert (y[:2] == 0).all()
    assert relative_error(y[2:], x[2:] @ bank.values.T) <= TOLERANCE[level]


def test_bias_and_leading_axes() -> None:
    rng = np.random.default_rng(5)
    bank = random_bank(rng, (1, 70, 96), 4, True).dense
    x, bias = rng.standard_normal((2, 3, 96)).astype(np.float32), rng.standard_normal(70)
    y = linear(x, bank, bias, K=96, N=70)
    assert relative_error(y, x @ bank.values.T + bias) <= TOLERANCE[0]


def test_no_tokens_give_an_empty_output() -> None:
    bank = random_bank(np.random.default_rng(6), (1, 5, 32), 4).dense
    assert linear(np.zeros((2, 0, 32), np.float32), bank).shape == (2, 0, 5)


@pytest.mark.parametrize("level", TOLERANCE)
def test_a_token_depends_on_its_batch_by_rounding_only(level: int) -> None:
    rng = np.random.default_rng(7)
    bank = random_bank(rng, (1, 67, 2080), 4).dense
    x = rng.standard_normal((140, 2080)).astype(np.float32)
    together = linear(x, bank, accuracy_level=level)
    alone = np.concatenate([linear(x[t : t + 1], bank, accuracy_level=level) for t in (0, 33, 139)])
    assert relative_error(together[[0, 33, 139]], alone) <= 1e-6  # many tokens are summed in another order
