"""A plan in words and tables."""

from typing import Any

GIB = 2**30


def report(result: dict[str, Any]) -> str:
    """The text of `tools.plan`; `result` is what it prints with --json."""
    where = result["topology"] or "this machine"
    lines = [f"{result['config']} on {where} ({result['device_kind']})", *(f"  {line}" for line in result["plan"]), ""]
    if result["fits"]:
        lines += memory_lines(result) + _work(result) + _collectives(result["collectives"]) + _time(result)
    else:
        needed, available = result["needed_bytes"] / GIB, result["available_bytes"] / GIB
        lines.append(
            f"does not fit: {result['clips_per_chip']} clips per chip need {needed:.2f} GiB of temporaries or more, "
            f"a chip has {available:.2f} GiB. What to change:"
        )
        lines += [f"  - {line}" for line in result["advice"]]
    if "largest_batch" in result:
        found = result["largest_batch"]
        refused = f"; {found['refused']} does not" if found["refused"] else ""
        lines.append(
            f"largest batch per chip found in {found['compiles']} more compiles: {found['clips']} fits{refused}"
        )
    return "\n".join(lines)


def memory_lines(result: dict[str, Any]) -> list[str]:
    kinds = result["memory_bytes"]
    lines = ["memory per chip, GiB:  " + "  ".join(f"{kind} {size / GIB:.3f}" for kind, size in kinds.items())]
    activations = result["activation_bytes"] / GIB
    lines.append(f"  of the temporaries, activations kept for the backward pass: {activations:.3f} by our estimate")
    if "chip_memory_bytes" in result:
        share = kinds["total"] / result["chip_memory_bytes"]
        lines.append(f"  = {share:.0%} of the {result['chip_memory_bytes'] / GIB:.0f} GiB of a {result['chip']}")
        if share > 1:
            peak = result["peak_memory_bytes"] / GIB
            lines.append(
                f"  WARNING: more than the chip holds. The compiler accepts it, because by its count only {peak:.1f} "
                "GiB are in use at once; take fewer clips per chip until a chip has shown it"
            )
    return lines


def _work(result: dict[str, Any]) -> list[str]:
    flops, model = result["flops_per_chip"], result["model_flops_per_chip"]
    clips, traffic = result["clips_per_chip"], result["memory_traffic_per_chip"]
    fewest = result["model_traffic_per_chip"]
    return [
        f"matrix products per chip and step: {flops / 1e12:.2f} TFLOP, model {model / 1e12:.2f} (x{flops / model:.2f})",
        f"memory traffic per chip and step: {traffic / 1e9:.1f} GB = {traffic / clips / 1e9:.2f} GB per clip, "
        f"model {fewest / clips / 1e9:.2f} (x{traffic / fewest:.2f})",
    ]


def _collectives(collectives: list[dict[str, Any]]) -> list[str]:
    lines = ["collectives of one step (bytes per device):"]
    lines.append(f"  {'kind':20s}{'times':>6s}{'bytes each':>12s}{'bytes':>13s}  axes         where")
    for c in collectives:
        total, axes = c["num_bytes"] * c["times"], "+".join(c["axes"]) or "-"
        where = c["source"].removeprefix("jit(step)/")[-60:]
        lines.append(f"  {c['kind']:20s}{c['times']:6d}{c['num_bytes']:12,d}{total:13,d}  {axes:12s} {where}")
    total = sum(c["num_bytes"] * c["times"] for c in collectives)
    return [*lines, f"  {'together':20s}{sum(c['times'] for c in collectives):6d}{'':12s}{total:13,d}"]


def _time(result: dict[str, Any]) -> list[str]:
    if "seconds" not in result:
        return ["no data sheet for this kind of device: no forecast of time"]
    seconds = {name: 1e3 * value for name, value in result["seconds"].items()}
    at_many = next(name for name in result if name.startswith("efficiency_at"))
    lines = [
        "forecast from data sheets, not measured: step = max(FLOPs / peak, bytes / bandwidth) / 0.6 + collectives",
        f"  compute {seconds['compute']:.1f} ms, memory {seconds['memory']:.1f} ms, "
        f"network {seconds['network']:.2f} ms -> step {seconds['step']:.1f} ms = {result['clips_per_s']:,.0f} clips/s "
        f"({result['clips_per_s_per_chip']:.0f} per chip, MFU {result['mfu']:.0%})",
        f"  network efficiency {result['efficiency']:.1%}; at 4096 chips {result[at_many]:.1%}",
        f"  whole run: {result['hours']:.1f} hours = {result['chip_hours']:,.0f} chip-hours"
        + (f" = {result['cost']:,.0f} at the given price" if "cost" in result else ""),
    ]
    return lines
