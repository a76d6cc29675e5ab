"""The tables of the page of evidence, as lines of Markdown, from a study's recorded results."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from led_rl.evaluation.metrics import is_share
from led_rl.study.cells import ALPHA
from led_rl.study.claims import NOT_SHOWN

Row = Mapping[str, Any]


def claims_table(rows: Sequence[Row]) -> list[str]:
    """What each claim compares, by how much it differs, and the verdict."""
    lines = []
    for row in rows:
        estimate = row.get("estimate")
        cells = compared(row)
        if estimate is None:
            lines.append((row["text"], f"{row['figure']}: {cells}", "", "", "", row["verdict"]))
            continue
        n = f"{row['seeds']} x {estimate['n']} x {row['samples_each']}"
        verdict = f"**{row['verdict']}**"
        if row["verdict"] == NOT_SHOWN:
            effect = estimate["detectable"]
            shown = "unknown, as all differences are equal" if effect is None else _amount(effect, row["figure"])
            verdict += f"; smallest effect it could have shown: {shown}"
        p = "" if estimate["p_holm"] is None else _p(estimate["p_holm"])
        interval = _interval(estimate, row["figure"], sign=True)
        lines.append((row["text"], f"{row['figure']}: {cells}", interval, p, n, verdict))
    return table(("claim", "compares", "difference", "p (Holm)", "seeds x problems x samples", "verdict"), lines)


def premises_table(found: Row) -> list[str]:
    """Each premise's figure beside its bound, and the verdict."""
    lines = []
    for row in found["premises"]:
        bound = f"above {row['above']}" if row["above"] is not None else f"below {row['below']}"
        estimate = row.get("estimate")
        value = "" if estimate is None else f"{estimate['value']:.3f}"
        if estimate and "low" in estimate:
            value += f" [{estimate['low']:.3f}, {estimate['high']:.3f}]"
        lines.append((row["text"], row["figure"], bound, value, estimate["n"] if estimate else "", row["verdict"]))
    return table(("premise", "figure", "bound", "measured", "problems", "verdict"), lines)


def cells_table(rows: Sequence[Row]) -> list[str]:
    """Accuracy, length and speed of each cell."""
    passes = [key for key in rows[0] if key.startswith("pass@")]
    head = ("trained with", "decoded with", *(f"{key}, %" for key in passes), "tokens", "tokens/s, beside other jobs")
    lines = [
        (
            row["arm"],
            row["decoding"],
            *(_interval(row[key], key) for key in passes),
            f"{row['total_tokens']['value']:.1f}",
            "" if row["tokens_per_s"] is None else f"{row['tokens_per_s']:.0f}",
        )
        for row in rows
    ]
    return table(head, lines)


def slopes_table(found: Row) -> list[str]:
    """alpha of each pass@k, a row for each model and decoding."""
    ks = sorted({row["k"] for row in found["sweeps"]})
    groups: dict[tuple[str, str], dict[int, str]] = {}
    for row in found["sweeps"]:
        groups.setdefault((row["arm"], row["sweep"]), {})[row["k"]] = _interval(row["alpha"], "pass@1")
    lines = [(arm, sweep, *(cells.get(k, "") for k in ks)) for (arm, sweep), cells in groups.items()]
    return table(("trained with", "decoded with", *(f"alpha of pass@{k}" for k in ks)), lines)


def training_table(rows: Sequence[Row]) -> list[str]:
    """What the trainer logged at both ends of its runs, a row for each training arm."""
    figures = list(dict.fromkeys(row["figure"] for row in rows))
    by_arm: dict[str, dict[str, str]] = {}
    for row in rows:
        ends = [f"{first:.3g} → {last:.3g}" for first, last in zip(row["first"], row["last"], strict=True)]
        by_arm.setdefault(row["arm"], {})[row["figure"]] = "; ".join(ends)
    lines = [(arm, *(cells.get(figure, "") for figure in figures)) for arm, cells in by_arm.items()]
    return table(("trained with", *figures), lines)


def layers_table(layers: Mapping[str, Row]) -> list[str]:
    """What `led-rl analyse` read of each model."""
    names = ("explored", "confident", "final_entropy", "mu_entropy", "latent_entropy", "latent_overlap")
    lines = []
    for label, found in layers.items():
        shares, latent = found["layers"]["without_norm"], found["latent_layers"]
        covered = sum(shares["candidate_mass"][layer] for layer in latent) / max(1, len(latent))
        means = [found["means"][name] for name in names]
        cells = [f"{m['value']:.3f} [{m['low']:.3f}, {m['high']:.3f}]" for m in means]
        gain = found["verdict"]["figures"]["gain"]
        cells.insert(5, f"{gain['value']:.3f} [{gain['low']:.3f}, {gain['high']:.3f}]")
        lines.append((label, *cells, f"{shares['top1'][-1]:.3f}", f"{shares['top2'][-1]:.3f}", f"{covered:.3f}"))
    head = (
        "model",
        "share that LED explores",
        "share with confidence >= 0.9",
        "final entropy on C, nats",
        "entropy of what LED draws from, nats",
        "largest latent entropy on C, nats",
        "gain: largest latent − final, nats",
        "share of C among a latent layer's k most probable",
        "final top-1 mass",
        "final top-2 mass",
        "latent layers' mass on C",
    )
    return table(head, lines)


def table(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> list[str]:
    """Lines of Markdown; none where there are no rows."""
    texts = [[" ".join(str(cell).split()).replace("|", "\\|") for cell in line] for line in lines]
    rows = ["| " + " | ".join(line) + " |" for line in texts]
    return ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |", *rows] if rows else []


def compared(claim: Row) -> str:
    """The two cells of a claim."""
    return f"{claim['first']} − {claim['second'] or 0}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _in_points(figure: str) -> bool:
    return is_share(figure.removeprefix(ALPHA)) or figure == "reward"


def _amount(value: float, figure: str) -> str:
    if _in_points(figure):
        return f"{100 * value:.1f} points" + (" per unit of temperature" if figure.startswith("alpha") else "")
    return f"{value:.2f}"


def _interval(estimate: Row, figure: str, sign: bool = False) -> str:
    unit, spec = (100, ".1f") if _in_points(figure) else (1, ".2f")
    if estimate["value"] is None:
        return "not estimable"
    texts = [f"{unit * estimate[key]:{'+' if sign else ''}{spec}}" for key in ("value", "low", "high")]
    value, low, high = (text.replace("-0", "+0" if sign else "0") if float(text) == 0 else text for text in texts)
    return f"{value} [{low}, {high}]"
