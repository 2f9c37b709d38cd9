"""The text that tools.plan prints."""

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


def _kernels(result: dict[str, Any]) -> list[str]:
    """How the time was found, and where it goes."""
    if "parts" not in result:
        return [
            "forecast from data sheets, not measured: step = max(FLOPs / peak, bytes / bandwidth) / 0.6 + collectives"
        ]
    rates, kinds = result["rates"], result["kinds"]
    lines = [
        "forecast by kernels, not measured: each takes max(bytes / bandwidth, FLOPs / rate) and a launch; "
        f"{rates['bandwidth'] / 1e12:.2f} TB/s, products {rates['products'] / 1e12:.0f} and attention "
        f"{rates['attention'] / 1e12:.0f} TFLOP/s, launch {1e6 * rates['launch']:.1f} us",
        "  ms a step by kind: " + ", ".join(f"{kind} {1e3 * seconds:.1f}" for kind, seconds in kinds.items()),
    ]
    others = {row["part"]: row for row in result.get("versus", {}).get("parts", [])}
    header = f"  {'part':22s}{'ms':>8s}{'GB':>8s}{'TFLOP':>8s}{'launches':>10s}"
    lines.append(header + (f"{'ms with --vs':>14s}{'difference':>12s}" if others else ""))
    for row in result["parts"]:
        line = f"  {row['part']:22s}{1e3 * row['seconds']:8.2f}{row['bytes'] / 1e9:8.1f}{row['flops'] / 1e12:8.2f}"
        line += f"{row['launches']:10d}"
        if others:
            other = others.pop(row["part"], {"seconds": 0.0})["seconds"]
            line += f"{1e3 * other:14.2f}{1e3 * (other - row['seconds']):+12.2f}"
        lines.append(line)
    for part, row in others.items():
        lines.append(f"  {part:22s}{0.0:8.2f}{'':26s}{1e3 * row['seconds']:14.2f}{1e3 * row['seconds']:+12.2f}")
    return lines + _versus(result)


def _versus(result: dict[str, Any]) -> list[str]:
    """The other plan of --vs in one line."""
    other = result.get("versus")
    if other is None or "seconds" not in other:
        return []
    values = " ".join(f"{name}={value}" for name, value in other["overrides"].items())
    ratio = other["seconds"]["step"] / result["seconds"]["step"]
    memory = other["memory_bytes"]["total"] / GIB
    return [
        f"  with {values}: step {1e3 * other['seconds']['step']:.1f} ms (x{ratio:.3f}), "
        f"{other['clips_per_s']:,.0f} clips/s, {memory:.2f} GiB"
    ]


def _time(result: dict[str, Any]) -> list[str]:
    if "seconds" not in result:
        return ["no data sheet for this kind of device: no forecast of time"]
    seconds = {name: 1e3 * value for name, value in result["seconds"].items()}
    speed, videos = (f"{result[f'{what}_per_s']:,.0f} {what}/s" for what in ("clips", "videos"))
    if result["clips_per_s"] > result["videos_per_s"]:
        speed += f" of {videos}"
    at_many = next(name for name in result if name.startswith("efficiency_at"))
    lines = [
        *_kernels(result),
        f"  at the data sheet's peak: compute {seconds['compute']:.1f} ms, memory {seconds['memory']:.1f} ms; "
        f"network {seconds['network']:.2f} ms -> step {seconds['step']:.1f} ms = {speed} "
        f"({result['clips_per_s_per_chip']:.0f} per chip, MFU {result['mfu']:.0%})",
        f"  network efficiency {result['efficiency']:.1%}; at 4096 chips {result[at_many]:.1%}",
        f"  whole run: {result['hours']:.1f} hours = {result['chip_hours']:,.0f} chip-hours"
        + (f" = {result['cost']:,.0f} at the given price" if "cost" in result else ""),
    ]
    return lines
