"""From a budget to a Plan: one width everywhere, or the widths that cost the least accuracy within the budget."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgepress.bundle import ALIGNMENT
from edgepress.checkpoint import TOKENIZER_FILES, Checkpoint
from edgepress.compress.allocate import Option, allocate, smallest_size
from edgepress.compress.quantizers import QUANTIZERS
from edgepress.compress.sensitivity import Meter, Unit
from edgepress.compress.statistics import Statistics
from edgepress.errors import PlanError
from edgepress.formats import BLOCK_SIZES, parse_format
from edgepress.layout import all_tensors
from edgepress.plan import PROJECTIONS, Plan, check_plan, uniform_plan
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
    formats: Sequence[str] = ("4", "4z", "8", "16"),
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
        raise PlanError(f"{bits:g} bits per weight are no budget; use 4, 8, 16, or a mean between 4 and 16")
    if quantizer not in QUANTIZERS:
        raise PlanError(f"unknown quantizer {quantizer!r}; use one of {', '.join(QUANTIZERS)}")
    if block_size not in BLOCK_SIZES:
        raise PlanError(f"unknown block size {block_size}; use one of {BLOCK_SIZES}")
    base = _uniform(checkpoint, _UNIFORM.get(bits, "16") if bits else "16", keep, quantizer, block_size)
    check_plan(base, checkpoint.spec)
    if bits in _UNIFORM:
        if max_size is not None:
            _check_size(size_of(checkpoint, base), max_size)
        return base
    chosen_formats = [parse_format(name, "the plan") for name in formats]
    meter = Meter(checkpoint, chosen_formats, quantizer, block_size, statistics)
    units = meter.units({layer: base.kept(layer) for layer in base.experts}, track)
    return _allocated(checkpoint, base, units, bits, max_size, uniform_experts)


def _uniform(
    checkpoint: Checkpoint, width: str, keep: Mapping[int, list[int]] | None, quantizer: str, block_size: int
) -> Plan:
    plan = uniform_plan(checkpoint.spec, width, dtype16=checkpoint.dtype16, block_size=block_size)
    why = [f"every matrix is stored at {width}"]
    if keep is None:
        return replace(plan, quantizer=quantizer, why=why)
    experts = {}
    for layer, all_experts in plan.experts.items():
        widths = next(iter(all_experts.values()))
        experts[layer] = {e: dict(widths) for e in sorted(keep.get(layer, all_experts))}
    kept, total = (sum(map(len, layers.values())) for layers in (experts, plan.experts))
    why.append(f"{kept} of {total} experts are kept")
    return replace(plan, experts=experts, quantizer=quantizer, why=why)


def size_of(checkpoint: Checkpoint, plan: Plan) -> int:
    """Bytes that a bundle of this plan takes: weights and their alignment, tokenizer files, and room for the graph."""
    stored = [t.nbytes for t in all_tensors(checkpoint.spec, plan)]
    padding = sum(-nbytes % ALIGNMENT for nbytes in stored if nbytes >= ALIGNMENT)
    companions = [checkpoint.path / name for name in TOKENIZER_FILES]
    tokenizer = sum(path.stat().st_size for path in companions if path.is_file())
    return sum(stored) + padding + tokenizer + _GRAPH_BYTES * len(stored) + len(plan.to_json())


def _check_size(size: int, max_size: int) -> None:
    if size > max_size:
        raise PlanError(
            f"the model takes {_mb(size)} at least, {_mb(size - max_size)} more than the {_mb(max_size)} allowed; "
            "raise the budget or keep fewer experts"
        )


def _allocated(
    checkpoint: Checkpoint, base: Plan, units: list[Unit], bits: float | None, max_size: int | None, uniform: bool
) -> Plan:
    """The plan of least cost whose matrices stay within `bits` and whose bundle stays within `max_size`."""
    groups = _groups(units, uniform)
    options = [_combined(group) for group in groups]
    weights = sum(unit.weights for unit in units)
    smallest = smallest_size(options)
    if bits is not None and bits * weights < 8 * smallest:
        raise PlanError(f"the matrices take {8 * smallest / weights:.3f} bits per weight at least, not {bits:g}")
    budget = int((bits or 16) * weights / 8)
    while True:
        chosen = allocate(options, max(budget, smallest))
        plan = _with_formats(base, groups, chosen)
        excess = size_of(checkpoint, plan) - max_size if max_size is not None else 0
        if excess <= 0:
            return replace(plan, why=_reasons(base, groups, chosen, bits, max_size))
        if budget <= smallest:
            _check_size(size_of(checkpoint, plan), max_size or 0)
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
