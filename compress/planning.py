"""From a budget to a Plan: one width everywhere, or the widths that cost the least accuracy within the budget."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgepress.architecture import ModelSpec
from edgepress.bundle import ALIGNMENT
from edgepress.checkpoint import TOKENIZER_FILES, Checkpoint
from edgepress.compress.allocate import Option, allocate, smallest_size
from edgepress.compress.quantizers import QUANTIZERS
from edgepress.compress.sensitivity import Meter, Unit
from edgepress.compress.statistics import Statistics
from edgepress.errors import PlanError
from edgepress.formats import BLOCK_SIZES, F16, parse_format
from edgepress.layout import all_tensors
from edgepress.plan import PROJECTIONS, Plan, check_plan, expert_shapes, matrix_roles, uniform_plan
from edgepress.progress import Track, silent

_UNIFORM: dict[float, str] = {4: "4z", 8: "8", 16: "16"}
_GRAPH_BYTES = 3072  # of model.onnx, per stored tensor


def make_plan(
    checkpoint: Checkpoint,
    *,
    bits: float | None = None,
    max_size: int | None = None,
    keep: Mapping[int, list[int]] | None = None,
    quantizer: str = "kquant",
    block_size: int = 32,
    statistics: Statistics | None = None,
    formats: Sequence[str] = ("3", "3z", "4", "4z", "5", "6", "8", "16"),
    uniform_experts: bool = False,
    track: Track = silent,
) -> Plan:
    """Decide which width every matrix gets.

    Args:
        bits: 4, 8 or 16: that width everywhere (4 with zero points). Any other number: the mean stored bits over all
            matrices, scales and zero points included, that the plan may reach.
        max_size: bytes that the bundle may take, graph and tokenizer files included.
        keep: layer -> kept experts; None: all.
        statistics: of a calibration; without it, all columns and all experts of a layer count equally.
        formats: the names of those that may be chosen.
        uniform_experts: both projections of an expert get the same width.

    Raises:
        PlanError: no budget, an impossible one (with the smallest reachable size), or unknown options.
    """
    if bits is None and max_size is None:
        raise PlanError("a plan needs a budget: bits or max_size")
    if bits is not None and not 0 < bits <= 16:
        raise PlanError(f"{bits:g} bits per weight are no budget; use 4, 8, 16, or a mean between 3.5 and 16")
    if quantizer not in QUANTIZERS:
        raise PlanError(f"unknown quantizer {quantizer!r}; use one of {', '.join(QUANTIZERS)}")
    if block_size not in BLOCK_SIZES:
        raise PlanError(f"unknown block size {block_size}; use one of {BLOCK_SIZES}")
    allowed = [parse_format(name, "the plan") for name in formats]
    narrowest = min(allowed, key=lambda f: f.bits_per_weight(block_size, block_size)).name
    width = _UNIFORM.get(bits or 0, narrowest)
    smallest = replace(_uniform(checkpoint, width, keep, uniform_experts, block_size), quantizer=quantizer)
    check_plan(smallest, checkpoint.spec)
    _check_size(checkpoint, smallest, max_size)
    if bits in _UNIFORM:
        return smallest
    _check_bits(checkpoint.spec, smallest, bits)
    meter = Meter(checkpoint, allowed, quantizer, block_size, statistics)
    units = meter.units({layer: smallest.kept(layer) for layer in smallest.experts}, track)
    return _allocated(checkpoint, smallest, units, bits, max_size, uniform_experts)


def _uniform(
    checkpoint: Checkpoint, width: str, keep: Mapping[int, list[int]] | None, uniform_experts: bool, block_size: int
) -> Plan:
    """One width everywhere, except where rows do not divide into blocks."""
    plan = uniform_plan(checkpoint.spec, width, dtype16=checkpoint.dtype16, block_size=block_size)
    why = [f"every matrix is stored at {width}"]
    experts = {}
    for layer, everyone in plan.experts.items():
        widths = next(iter(everyone.values()))
        if uniform_experts and len(set(widths.values())) > 1:
            widths = dict.fromkeys(widths, F16.name)
        kept = everyone if keep is None else keep.get(layer, everyone)
        experts[layer] = {e: dict(widths) for e in sorted(kept)}
    if keep is not None:
        kept_count, total = (sum(map(len, layers.values())) for layers in (experts, plan.experts))
        why.append(f"{kept_count} of {total} experts are kept")
    return replace(plan, experts=experts, why=why)


def size_of(checkpoint: Checkpoint, plan: Plan) -> int:
    """Bytes that a bundle of this plan takes: weights and their alignment, tokenizer files, and room for the graph."""
    stored = [t.nbytes for t in all_tensors(checkpoint.spec, plan)]
    padding = sum(-nbytes % ALIGNMENT for nbytes in stored if nbytes >= ALIGNMENT)
    companions = [checkpoint.path / name for name in TOKENIZER_FILES]
    tokenizer = sum(path.stat().st_size for path in companions if path.is_file())
    return sum(stored) + padding + tokenizer + _GRAPH_BYTES * len(stored) + len(plan.to_json())


def _check_size(checkpoint: Checkpoint, smallest: Plan, max_size: int | None) -> None:
    size = size_of(checkpoint, smallest)
    if max_size is not None and size > max_size:
        raise PlanError(
            f"the model takes {_mb(size)} at least, {_mb(size - max_size)} more than the {_mb(max_size)} allowed; "
            "raise the budget or keep fewer experts"
        )


def _check_bits(spec: ModelSpec, smallest: Plan, bits: float | None) -> None:
    matrices = [(smallest.format(role), shape) for role, shape in matrix_roles(spec)]
    for layer, kept in smallest.experts.items():
        for projection, shape in expert_shapes(spec).items():
            matrices += [(smallest.expert_format(layer, e, projection), shape) for e in kept]
    nbytes = sum(chosen.matrix_bytes(*shape, smallest.block_size) for chosen, shape in matrices)
    least = 8 * nbytes / sum(rows * columns for _, (rows, columns) in matrices)
    if bits is not None and bits < least:
        raise PlanError(f"the matrices take {least:.3f} bits per weight at least, not {bits:g}; raise the budget")


def _allocated(
    checkpoint: Checkpoint, smallest: Plan, units: list[Unit], bits: float | None, max_size: int | None, uniform: bool
) -> Plan:
    """The plan of least cost whose matrices stay within `bits` and whose bundle stays within `max_size`."""
    groups = _groups(units, uniform)
    options = [_combined(group) for group in groups]
    budget = int((bits or 16) * sum(unit.weights for unit in units) / 8)
    while True:
        chosen = allocate(options, max(budget, smallest_size(options)))
        plan = _with_formats(smallest, groups, chosen)
        excess = size_of(checkpoint, plan) - max_size if max_size is not None else 0
        if excess <= 0:
            return replace(plan, why=_reasons(smallest, groups, chosen, bits, max_size))
        budget = min(budget, sum(o.nbytes for o in chosen)) - excess


def _groups(units: list[Unit], uniform: bool) -> list[list[Unit]]:
    """Units that share a format: each alone, or the two projections of an expert together."""
    if not uniform:
        return [[unit] for unit in units]
    groups: dict[str, list[Unit]] = {}
    for unit in units:
        key = unit.role if unit.expert is None else f"{unit.layer}.{unit.expert}"
        groups.setdefault(key, []).append(unit)
    return list(groups.values())


def _combined(group: list[Unit]) -> list[Option]:
    """The options that every unit of a group has, at the sum of their bytes and costs."""
    by_name = [{option.name: option for option in unit.options} for unit in group]
    shared = [name for name in by_name[0] if all(name in options for options in by_name)]
    if not shared:
        raise PlanError(f"the formats leave no common width to both projections of {group[0].role}; allow 16")
    return [Option(name, sum(o[name].nbytes for o in by_name), sum(o[name].cost for o in by_name)) for name in shared]


def _with_formats(base: Plan, groups: list[list[Unit]], chosen: list[Option]) -> Plan:
    formats = dict(base.formats)
    experts = {layer: {e: dict(widths) for e, widths in kept.items()} for layer, kept in base.experts.items()}
    for group, option in zip(groups, chosen, strict=True):
        for unit in group:
            if unit.layer is None or unit.expert is None:
                formats[unit.role] = option.name
            else:
                experts[unit.layer][unit.expert][unit.projection] = option.name
    return replace(base, formats=formats, experts=experts)


def _reasons(
    base: Plan, groups: list[list[Unit]], chosen: list[Option], bits: float | None, max_size: int | None
) -> list[str]:
    """The plan in sentences."""
    weights = sum(unit.weights for group in groups for unit in group)
    nbytes = sum(option.nbytes for option in chosen)
    limits = [f"{bits:g} bits"] if bits is not None else []
    limits += [f"a bundle of {_mb(max_size)}"] if max_size is not None else []
    why = [
        f"{8 * nbytes / weights:.3f} bits per weight over all matrices ({_mb(nbytes)}), within {' and '.join(limits)}",
        *base.why[1:],
    ]
    for projection in ("", *PROJECTIONS):
        counts = Counter(o.name for g, o in zip(groups, chosen, strict=True) for u in g if u.projection == projection)
        if counts:
            what = f"{projection} of experts" if projection else "always-active matrices"
            why.append(f"{what}: {', '.join(f'{n} at {name}' for name, n in sorted(counts.items()))}")
    loudest = sorted(
        zip(groups, chosen, strict=True), key=lambda item: -max(o.cost for u in item[0] for o in u.options)
    )[:3]
    why.append(f"most sensitive: {', '.join(f'{g[0].role} ({o.name})' for g, o in loudest)}")
    return why


def _mb(nbytes: int) -> str:
    return f"{nbytes / 1e6:.1f} MB"
