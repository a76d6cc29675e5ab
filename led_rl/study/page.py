"""The page of evidence: a section for each study, from its recorded results alone; no number is typed in."""

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from led_rl.study.claims import NOT_RUN, NOT_SHOWN, REFUTED, SHOWN
from led_rl.study.figure import save_figure
from led_rl.study.recipe import Study
from led_rl.study.running import duration

WIDTH = 118
Row = Mapping[str, Any]
HEAD = """# Evidence: what LED does to a model

This page is written by `led-rl study`. Tables, intervals and verdicts come from the recorded results in
[{folder}]({folder}); the sentences of question and method are the recipes'. To write it again without running anything:

```bash
led-rl study --page-only {recipes}
```

A claim compares two cells, `TRAINING ARM/DECODING`, over the same seeds and problems. Intervals are 95 %: over seeds
and problems, both taken as random (Student's t with Satterthwaite's degrees of freedom), or over problems alone
(bootstrap) where there is one model. The p-values of a table are corrected together (Holm). Verdicts follow one rule:

* **shown**: corrected p < 0.05, and the difference has the claimed sign;
* **refuted here**: corrected p < 0.05, and it has the other sign;
* **not shown at this n**: otherwise; beside it stands the smallest true difference that so many seeds and problems show
  with a power of 80 %, before the correction;
* **not run yet**.

Nothing is claimed beyond the models, sizes and n that are named.
"""


def write_page(page: Path, results: Path, studies: Sequence[Study]) -> None:
    """Writes the page and the figures beside the results.

    Args:
        results: folder of the results files: those of other studies are shown, too.
        studies: those to show, in order; one without results gets a section that says so.
    """
    page.parent.mkdir(parents=True, exist_ok=True)
    folder = results.name if results.parent == page.parent else str(results)
    recipes = " ".join(_from_here(study.path) for study in studies)
    given = {study.name: study for study in studies}
    recorded = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))}
    sections: list[str] = []
    summary: list[tuple[str, ...]] = []
    for name in dict.fromkeys([*given, *recorded]):
        if name not in recorded:
            sections.append(_not_run(given[name]))
            summary.append((_link(given[name].recipe.title), NOT_RUN, "", ""))
            continue
        found = recorded[name]
        figure = save_figure(results / f"{name}.png", found)
        sections.append(_section(given.get(name), found, f"{folder}/{figure.name}" if figure else None))
        told = ("; ".join(_texts(found, verdict)) for verdict in (SHOWN, REFUTED))
        summary.append((_link(found["recipe"]["title"]), *told, f"{len(_texts(found, NOT_SHOWN))} claims"))
    head = HEAD.format(folder=folder, recipes=recipes)
    table = _table(("study", SHOWN, REFUTED, NOT_SHOWN), summary)
    page.write_text("\n".join([head, *table, "", *sections]), encoding="utf-8")


def _link(title: str) -> str:
    """To the section of this title, by the rule of Markdown viewers."""
    anchor = "".join(char for char in title.lower().replace(" ", "-") if char.isalnum() or char in "-_")
    return f"[{title}](#{anchor})"


def _texts(found: Row, verdict: str) -> list[str]:
    """The premises and claims of this verdict."""
    rows = [*found["premises"], *found["claims"], *(found.get("confirmation") or {"claims": []})["claims"]]
    return [row["text"] for row in rows if row["verdict"] == verdict]


def _from_here(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _not_run(study: Study) -> str:
    recipe = study.recipe
    claims = [*recipe.claims, *(recipe.confirm.claims if recipe.confirm else [])]
    lines = [
        f"## {recipe.title}\n",
        _flow(f"**Question.** {recipe.question}") + "\n",
        _flow(f"**Method.** {recipe.method}") + "\n",
        _flow(f"**Verdict.** {NOT_RUN}: all of it. `led-rl study {_from_here(study.path)}` runs it. {recipe.unproven}"),
        "",
        *_table(
            ("claim", "compares"),
            [(claim.text, f"{claim.figure}: {_compared(claim.model_dump())}") for claim in claims],
        ),
    ]
    return "\n".join(lines) + "\n"


def _section(study: Study | None, found: Row, figure: str | None) -> str:
    recipe = found["recipe"]
    lines = [f"## {recipe['title']}\n"]
    if found["smoke"]:
        lines.append("**Smoke size: it shows that the path works, and says nothing else.**\n")
    if changed := _changed(study, recipe):
        lines.append(f"The recipe has changed since this was run ({', '.join(changed)}).\n")
    lines += [_flow(f"**Question.** {recipe['question']}") + "\n", _flow(f"**Method.** {recipe['method']}") + "\n"]
    lines += [_flow(_n(found)), ""]
    if figure:
        lines.append(f"![{recipe['title']}]({figure})\n")
    if found["premises"]:
        lines += ["### Does the method's premise hold for this model?\n", *_premises(found), ""]
    if found["claims"]:
        lines += ["### Claims\n", *_claims(found["claims"]), ""]
    if confirmation := found.get("confirmation"):
        chosen = confirmation["chosen"] or NOT_RUN
        how = recipe["confirm"]
        lines += [
            "### Confirmation\n",
            _flow(
                f"Chosen by {how['figure']} among {len(how['among'])} cells of the screening: {chosen}. Tested with "
                f"seeds {', '.join(map(str, how['seeds']))} on problems {how['rows'][0]} to "
                f"{how['rows'][1] - 1}, which the screening did not use."
            )
            + "\n",
            *_claims(confirmation["claims"]),
            "",
        ]
    if found["cells"]:
        lines += ["### All cells\n", *_cells(found["cells"]), ""]
    if found["sweeps"]:
        lines += ["### Slope of accuracy over temperature (points per unit of temperature)\n", *_slopes(found), ""]
    if found["training"]:
        lines += ["### Training: mean of the first → last 20 steps, each seed\n", *_training(found["training"]), ""]
    if found["layers"]:
        lines += [
            "### Layers, read on the base model's thoughts\n",
            *_layers(found["layers"]),
            "",
            *_reservoirs(found["layers"]),
            "",
        ]
    lines += [_flow(_cost(found)), ""]
    return "\n".join(lines)


def _changed(study: Study | None, recorded: Row) -> list[str]:
    """Keys whose values decide the result and are no longer those that were run."""
    if study is None:
        return []
    now = json.loads(study.recipe.model_dump_json(exclude={"smoke"}))
    watched = ("base", "warmup", "problems", "train", "evaluate", "analyse", "claims", "premises", "confirm")
    return [key for key in watched if now[key] != recorded.get(key)]


def _n(found: Row) -> str:
    recipe, warm_up = found["recipe"], found["warm_up"]
    parts = [f"{found['problems']} held-out problems x {recipe['evaluate']['n']} samples"]
    if found["seeds"]:
        parts.append(f"{found['seeds']} seeds of each of {len(recipe['train']['arms'])} training arms")
    if warm_up:
        settings = warm_up["settings"]
        parts.append(
            f"base model: shape `{settings.get('shape', 'quickstart')}`, task `{settings.get('task', 'countdown')}`, "
            f"{settings['steps']} steps of supervised learning in {duration(warm_up['seconds'])}, layer dropout "
            f"{settings.get('layer_dropout', 0)}"
        )
    return f"**n.** {'; '.join(parts)}."


def _claims(rows: Sequence[Row]) -> list[str]:
    lines = []
    for row in rows:
        estimate = row.get("estimate")
        compared = _compared(row)
        if estimate is None:
            lines.append((row["text"], f"{row['figure']}: {compared}", "", "", "", row["verdict"]))
            continue
        n = f"{row['seeds']} x {estimate['n']} x {row['samples_each']}"
        verdict = f"**{row['verdict']}**"
        if row["verdict"] == NOT_SHOWN:
            effect = estimate["detectable"]
            shown = "unknown, as all differences are equal" if effect is None else _amount(effect, row["figure"])
            verdict += f"; smallest effect it could have shown: {shown}"
        p = "" if estimate["p_holm"] is None else f"{estimate['p_holm']:.3f}"
        interval = _interval(estimate, row["figure"], sign=True)
        lines.append((row["text"], f"{row['figure']}: {compared}", interval, p, n, verdict))
    return _table(("claim", "compares", "difference", "p (Holm)", "seeds x problems x samples", "verdict"), lines)


def _compared(claim: Row) -> str:
    return f"{claim['first']} − {claim['second'] or 0}"


def _premises(found: Row) -> list[str]:
    lines = []
    for row in found["premises"]:
        bound = f"above {row['above']}" if row["above"] is not None else f"below {row['below']}"
        estimate = row.get("estimate")
        value = "" if estimate is None else f"{estimate['value']:.3f}"
        if estimate and "low" in estimate:
            value += f" [{estimate['low']:.3f}, {estimate['high']:.3f}]"
        lines.append((row["text"], row["figure"], bound, value, estimate["n"] if estimate else "", row["verdict"]))
    return _table(("premise", "figure", "bound", "measured", "problems", "verdict"), lines)


def _cells(rows: Sequence[Row]) -> list[str]:
    passes = [key for key in rows[0] if key.startswith("pass@")]
    head = ("trained with", "decoded with", *(f"{key}, %" for key in passes), "tokens", "tokens/s")
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
    return _table(head, lines)


def _slopes(found: Row) -> list[str]:
    ks = sorted({row["k"] for row in found["sweeps"]})
    groups: dict[tuple[str, str], dict[int, str]] = {}
    for row in found["sweeps"]:
        groups.setdefault((row["arm"], row["sweep"]), {})[row["k"]] = _interval(row["alpha"], "pass@1")
    lines = [(arm, sweep, *(cells.get(k, "") for k in ks)) for (arm, sweep), cells in groups.items()]
    return _table(("trained with", "decoded with", *(f"alpha of pass@{k}" for k in ks)), lines)


def _training(rows: Sequence[Row]) -> list[str]:
    figures = list(dict.fromkeys(row["figure"] for row in rows))
    by_arm: dict[str, dict[str, str]] = {}
    for row in rows:
        ends = [f"{first:.3g} → {last:.3g}" for first, last in zip(row["first"], row["last"], strict=True)]
        by_arm.setdefault(row["arm"], {})[row["figure"]] = "; ".join(ends)
    lines = [(arm, *(cells.get(figure, "") for figure in figures)) for arm, cells in by_arm.items()]
    return _table(("trained with", *figures), lines)


def _layers(layers: Mapping[str, Row]) -> list[str]:
    names = ("explored", "confident", "final_entropy", "latent_entropy", "latent_overlap")
    lines = []
    for label, found in layers.items():
        shares, latent = found["layers"]["without_norm"], found["latent_layers"]
        covered = sum(shares["candidate_mass"][layer] for layer in latent) / max(1, len(latent))
        means = [found["means"][name] for name in names]
        cells = [f"{m['value']:.3f} [{m['low']:.3f}, {m['high']:.3f}]" for m in means]
        lines.append((label, *cells, f"{shares['top1'][-1]:.3f}", f"{shares['top2'][-1]:.3f}", f"{covered:.3f}"))
    head = (
        "model",
        "explored share",
        "confidence >= 0.9",
        "final entropy on C, nats",
        "largest latent entropy on C, nats",
        "overlap",
        "final top-1 mass",
        "final top-2 mass",
        "latent layers' mass on C",
    )
    return _table(head, lines)


def _reservoirs(layers: Mapping[str, Row]) -> list[str]:
    """What `led-rl analyse` says of each model, models of the same verdict together."""
    said: dict[str, list[str]] = {}
    for label, found in layers.items():
        said.setdefault(found["verdict"]["sentence"], []).append(label)
    lines = [f"`led-rl analyse` says of {', '.join(labels)}: {sentence}." for sentence, labels in said.items()]
    return [_flow(line) for line in lines]


def _cost(found: Row) -> str:
    cost = found["cost"]
    spent = ", ".join(f"{cost['jobs'][kind]} x {kind} {duration(s)}" for kind, s in cost["seconds"].items())
    total = duration(sum(cost["seconds"].values()))
    return (
        f"**Cost.** {total} of jobs that were run for this study ({spent}) on {cost['machine']}. **Command.** `"
        f"{found['command']}`. **Commit.** {', '.join(cost['commits']) or 'unknown'}; last job ended {cost['ended']}."
    )


def _amount(value: float, figure: str) -> str:
    if "pass@" in figure or "majority@" in figure or figure in ("reward", "truncated"):
        return f"{100 * value:.1f} points" + (" per unit of temperature" if figure.startswith("alpha") else "")
    return f"{value:.2f}"


def _interval(estimate: Row, figure: str, sign: bool = False) -> str:
    share = "pass@" in figure or "majority@" in figure or figure in ("reward", "truncated")
    unit, spec = (100, ".1f") if share else (1, ".2f")
    if estimate["value"] is None:
        return "not estimable"
    plus = "+" if sign else ""
    value, low, high = (unit * estimate[key] for key in ("value", "low", "high"))
    return f"{value:{plus}{spec}} [{low:{plus}{spec}}, {high:{plus}{spec}}]"


def _flow(text: str) -> str:
    """A paragraph in lines of at most WIDTH characters."""
    return textwrap.fill(" ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False)


def _table(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> list[str]:
    rows = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines]
    return ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |", *rows] if rows else []
