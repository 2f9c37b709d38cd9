"""The results of a campaign as a table, with the goals of the project."""

from typing import Any

Rows = dict[str, dict[str, Any]]


def table(results: list[dict[str, Any]]) -> str:
    """One line per stage (its last result), then one per goal."""
    rows: Rows = {row["stage"]: row for row in results}
    header = (
        f"{'stage':32s}{'median ms':>11s}{'p10':>9s}{'p90':>9s}{'clips/s':>9s}{'MFU':>7s}{'GiB':>7s}{'first s':>9s}"
    )
    lines = [header]
    for name, row in rows.items():
        times = [_text(row.get(key), 1e3, ".2f") for key in ("median_s", "p10_s", "p90_s")]
        rest = [_text(row.get("clips_per_s"), 1, ".0f"), _text(row.get("mfu"), 1, ".3f")]
        rest += [_text(row.get("peak_device_mb"), 1 / 1024, ".2f"), _text(row.get("since_start_s"), 1, ".1f")]
        cells = "".join(
            f"{cell:>{width}s}" for cell, width in zip([*times, *rest], (11, 9, 9, 9, 7, 7, 9), strict=True)
        )
        lines.append(f"{name:32s}{cells}  {row.get('error', '')[:60]}")
    for name, text in _profiles(rows):
        lines.append(f"{name}: {text}")
    lines += ["", "aim; measured"]
    return "\n".join([*lines, *(f"  {text:62s} {_text(value, 1, '.3f')}" for text, value in goals(rows))])


def goals(rows: Rows) -> list[tuple[str, float | None]]:
    """(goal, measured value or None) pairs."""

    def get(stage: str, key: str = "median_s") -> float | None:
        return rows.get(stage, {}).get(key)

    def ratio(a: float | None, b: float | None) -> float | None:
        return a / b if a is not None and b else None

    warm, cold = get("dino_warm"), get("dino_cold")
    ours = min((seconds for seconds in (warm, cold) if seconds), default=None)
    best = "dino_warm" if ours == warm else "dino_cold"
    peak = get("peer_shipped_dino", "peak_device_mb")
    return [
        ("the authors' step as shipped / ours, ViT-B DINO-B (>= 5)", ratio(get("peer_shipped_dino"), ours)),
        ("the same with its teacher in 16 bits (>= 2.2)", ratio(get("peer_amp_dino"), ours)),
        ("the same, ViT-B MLP (>= 2.8)", ratio(get("peer_amp_mlp"), get("mlp"))),
        ("best effort in PyTorch / ours, ViT-B DINO-B (>= 1.25)", ratio(get("peer_best_dino"), ours)),
        ("clips/s, ViT-B DINO-B", get(best, "clips_per_s")),
        ("clips/s, ViT-B MLP", get("mlp", "clips_per_s")),
        ("clips/s, ViT-L DINO-B", get("large", "clips_per_s")),
        ("MFU, ViT-B DINO-B (>= .30)", get(best, "mfu")),
        ("objective / one fp32 read per sweep (<= 1.5)", get("objective", "times_bound")),
        ("the authors' objective / ours, one side (>= 6)", ratio(get("peer_parts"), get("objective"))),
        ("equal hard assignments, kept scores and float64 (>= .995)", get("agreement", "equal_platform")),
        ("peak memory / the authors' as shipped (<= .35)", ratio(get(best, "peak_device_mb"), peak)),
        ("seconds to the end of the first step, cold (<= 90)", get("dino_cold", "since_start_s")),
        ("the same from the compilation cache (<= 20)", get("dino_warm", "since_start_s")),
        ("step from shards / from a resident batch (<= 1.05)", get("end_to_end", "ratio")),
        ("share of the traced steps in which the device is idle (< .03)", get("profile", "idle_share")),
    ]


def _profiles(rows: Rows) -> list[tuple[str, str]]:
    parts = rows.get("profile", {}).get("parts_ms_a_step", {})
    return [("profile, ms a step", ", ".join(f"{part} {ms}" for part, ms in parts.items()))] if parts else []


def _text(value: Any, scale: float, form: str) -> str:
    return format(scale * value, form) if isinstance(value, int | float) else "-"
