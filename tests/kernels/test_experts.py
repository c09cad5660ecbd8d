"""`Experts` against numpy, in every variant that this machine runs."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels import nodes, reference
from tests.kernels.nodes import VARIANTS, supported, variant
from tests.kernels.reference import ACTIVATIONS, Array, Layer, assert_within, random_bank, relative_error

FLOAT = 1e-5
LEVELS = (0, 2, 4)
SUPPORTED = [v for v in VARIANTS if supported(v)]
Formats = list[tuple[int, bool]]
MIXED: Formats = [(4, False), (8, True), (16, False), (4, True)]
FORMATS: Formats = [*MIXED, (8, False), (3, False), (3, True), (5, False), (6, False)]


def random_layer(
    rng: np.random.Generator, count: int, hidden: int, inner: int, gate_up: Formats, down: Formats, *, block: int = 32,
    bfloat: bool = False, biased: bool = False, activation: str = "silu", pruned: int = 0,
) -> Layer:  # fmt: skip
    """Experts scattered over the banks, independently for the two projections, in any order.

    Each bank begins with `pruned` matrices that belong to no expert.
    """

    def scatter(formats: Formats, rows: int, columns: int) -> tuple[list[Any], list[tuple[int, int]]]:
        of_expert = rng.integers(0, len(formats), count)
        index = [int((of_expert[:e] == of_expert[e]).sum()) for e in range(count)]
        sizes = np.bincount(of_expert, minlength=len(formats))
        flipped = [(int(b), int(sizes[b]) - 1 - i + pruned) for b, i in zip(of_expert, index, strict=True)]
        banks = [
            random_bank(rng, (max(int(size), 1) + pruned, rows, columns), bits, asymmetric, block, bfloat)
            for size, (bits, asymmetric) in zip(sizes, formats, strict=True)
        ]
        return banks, flipped

    banks = scatter(gate_up, 2 * inner, hidden), scatter(down, hidden, inner)
    biases = (rng.standard_normal((count, 2 * inner)), rng.standard_normal((count, hidden))) if biased else (None, None)
    return Layer(banks[0][0], banks[1][0], banks[0][1], banks[1][1], *biases, activation, block)


def random_routes(rng: np.random.Generator, tokens: int, k: int, count: int) -> tuple[Array, Array]:
    return rng.random((tokens, k)).astype(np.float32), rng.integers(0, count, (tokens, k))


def inputs(rng: np.random.Generator, tokens: int, hidden: int) -> Array:
    return rng.standard_normal((tokens, hidden)).astype(np.float32) * np.float32(0.3)


def check(name: str, layer: Layer, tokens: int, k: int, level: int, seed: int = 0, skipped: float = 0) -> None:
    rng = np.random.default_rng(seed)
    x = inputs(rng, tokens, layer.gate_up[0].values.shape[-1])
    weights, ids = random_routes(rng, tokens, k, layer.count)
    weights[rng.random(weights.shape) < skipped] = 0
    with variant(name):
        y = nodes.experts(x, weights, ids, layer, accuracy_level=level)
    assert_within(y, reference.experts_bounded(x, weights, ids, layer, level))


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("tokens", [0, 1, 7, 64])
def test_mixed_widths(name: str, level: int, biased: bool, tokens: int) -> None:
    if not supported(name):
        pytest.skip(f"no {name} on this machine")
    layer = random_layer(np.random.default_rng(1), 9, 96, 160, MIXED, MIXED[::-1], biased=biased)
    check(name, layer, tokens, 3, level)


@pytest.mark.parametrize("name", SUPPORTED)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("block", [16, 64, 128])
def test_block_sizes(name: str, level: int, block: int) -> None:
    layer = random_layer(np.random.default_rng(2), 4, 3 * block, 5 * block, MIXED, MIXED, block=block)
    check(name, layer, 5, 2, level)


@pytest.mark.parametrize("name", SUPPORTED)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("block", [32, 128])
@pytest.mark.parametrize("form", [(4, False), (4, True), (8, False), (8, True)])
def test_many_tokens_of_an_expert(name: str, level: int, block: int, form: tuple[int, bool]) -> None:
    layer = random_layer(np.random.default_rng(4), 1, 640, 128, [form], [form], block=block)
    check(name, layer, 17, 1, level)


@pytest.mark.parametrize("name", SUPPORTED)
@pytest.mark.parametrize("bfloat", [False, True])
def test_16_bit_experts_of_odd_sizes(name: str, bfloat: bool) -> None:
    layer = random_layer(np.random.default_rng(3), 3, 37, 53, [(16, False)], [(16, False)], bfloat=bfloat)
    check(name, layer, 6, 2, 4)


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(SUPPORTED), level=st.sampled_from(LEVELS), block=st.sampled_from([16, 32, 64, 128]),
    gate_up=st.lists(st.sampled_from(FORMATS), min_size=1, max_size=3),
    down=st.lists(st.sampled_from(FORMATS), min_size=1, max_size=3), bfloat=st.booleans(),
    blocks=st.tuples(st.integers(1, 4), st.integers(1, 4)), count=st.integers(1, 12), pruned=st.integers(0, 2),
    tokens=st.one_of(st.integers(0, 8), st.integers(60, 70)), k=st.integers(0, 8),
    skipped=st.sampled_from([0, 0.5, 1]), biased=st.booleans(), activation=st.sampled_from(list(ACTIVATIONS)),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_any_layer_and_routes(
    name: str, level: int, block: int, gate_up: Formats, down: Formats, bfloat: bool, blocks: tuple[int, int],
    count: int, pruned: int, tokens: int, k: int, skipped: float, biased: bool, activation: str, seed: int,
) -> None:  # fmt: skip
    """Few experts for many routes repeat in a token; more experts than routes leave some without tokens."""
    hidden, inner = (block * n for n in blocks)
    layer = random_layer(
        np.random.default_rng(seed), count, hidden, inner, gate_up, down, block=block, bfloat=bfloat, biased=biased,
        activation=activation, pruned=pruned,
    )  # fmt: skip
    check(name, layer, tokens, k, level, seed, skipped)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation: str) -> None:
    layer = random_layer(np.random.default_rng(4), 3, 64, 64, [(8, False)], [(8, False)], activation=activation)
    check("portable", layer, 20, 2, 0)


def test_swiglu_oai_takes_alpha_and_limit() -> None:
    rng = np.random.default_rng(5)
    layer = random_layer(rng, 2, 64, 64, [(8, False)], [(8, False)], activation="swiglu_oai")
    x, (weights, ids) = 10 * inputs(rng, 4, 64), random_routes(rng, 4, 2, 2)
    y = nodes.experts(x, weights, ids, layer, alpha=1.1, limit=2.5)
    assert relative_error(y, reference.experts(x, weights, ids, layer, alpha=1.1, limit=2.5)) <= FLOAT


def test_every_expert_at_once() -> None:
    layer = random_layer(np.random.default_rng(6), 8, 64, 32, MIXED, MIXED)
    rng = np.random.default_rng(7)
    ids = np.stack([rng.permutation(8) for _ in range(5)])
    x, weights = inputs(rng, 5, 64), rng.random((5, 8)).astype(np.float32)
    assert relative_error(nodes.experts(x, weights, ids, layer), reference.experts(x, weights, ids, layer)) <= FLOAT


def test_repeated_experts_add_up() -> None:
    layer = random_layer(np.random.default_rng(8), 3, 64, 32, [(4, False)], [(4, False)])
    x = inputs(np.random.default_rng(9), 1, 64)
    twice = nodes.experts(x, np.array([[0.25, 0.5]]), np.array([[1, 1]]), layer)
    once = nodes.experts(x, np.array([[0.75]]), np.array([[1]]), layer)
    assert relative_error(twice, once) <= FLOAT


def test_a_route_of_weight_zero_contributes_nothing_whatever_its_expert_holds() -> None:
    layer = random_layer(np.random.default_rng(10), 2, 64, 32, [(4, False)], [(4, False)])
    bank, index = layer.gate_up_map[1]
    layer.gate_up[bank].tensors[1][index] = np.nan
    x = inputs(np.random.default_rng(11), 2, 64)
    y = nodes.experts(x, np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0, 1], [1, 0]]), layer)
    assert np.isfinite(y).all()
    assert (nodes.experts(x, np.zeros((2, 1)), np.ones((2, 1)), layer) == 0).all()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("tokens", [1, 130])
def test_results_do_not_depend_on_the_number_of_threads(level: int, tokens: int) -> None:
    rng = np.random.default_rng(12)
    layer = random_layer(rng, 6, 256, 192, MIXED, MIXED)
    x, (weights, ids) = inputs(rng, tokens, 256), random_routes(rng, tokens, 3, 6)
    one, *others = (nodes.experts(x, weights, ids, layer, n, accuracy_level=level) for n in (1, 2, 3, 5))
    assert all((one == other).all() for other in others)


@pytest.mark.parametrize("name", SUPPORTED)
@pytest.mark.parametrize("level", LEVELS)
def test_two_sessions_and_eight_threads_at_once_give_the_bits_of_one(name: str, level: int) -> None:
    rng = np.random.default_rng(13)
    layer = random_layer(rng, 6, 128, 96, MIXED, MIXED)
    feeds = []
    for tokens in (1, 2, 3, 5, 8, 13, 40, 70):
        weights, ids = random_routes(rng, tokens, 2, 6)
        feeds.append({"x": inputs(rng, tokens, 128), "weights": weights, "experts": ids})
    node = (nodes.experts_weights(layer), nodes.experts_attributes(layer) | {"accuracy_level": level})
    with variant(name):
        one, *two = (nodes.session("Experts", feeds[0], *node, threads=n) for n in (1, 2, 2))
    alone = [one.run(None, feed)[0] for feed in feeds]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda i: two[i % 2].run(None, feeds[i // 2 % 8])[0], range(160)))
    assert all(np.array_equal(y, alone[i // 2 % 8]) for i, y in enumerate(together))
