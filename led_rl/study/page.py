"""The page of evidence: a section for each study, from its recorded results alone; no number is typed in."""

import json
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from led_rl.decoding import UserError
from led_rl.study.claims import NOT_RUN, NOT_SHOWN, REFUTED, SHOWN
from led_rl.study.figure import save_figure
from led_rl.study.recipe import Study
from led_rl.study.running import duration
from led_rl.study.tables import (
    Row,
    cells_table,
    claims_table,
    compared,
    layers_table,
    premises_table,
    slopes_table,
    table,
    training_table,
)

WIDTH = 118
KEYS = (
    *("name", "smoke", "command", "recipe", "seeds", "problems", "premises", "claims", "cells", "sweeps", "training"),
    *("layers", "warm_up", "cost"),
)  # of a results file
HEAD = """# Evidence: what LED does to a model

This page is written by `led-rl study`. Tables, intervals and verdicts come from the recorded results in
[{folder}]({folder}); the sentences of question and method are the recipes'. To write it again without running anything:

```bash
led-rl study --page-only {recipes}
```

A claim compares two cells over the same seeds and problems. A **cell** is `TRAINING ARM/DECODING`: `led/standard` is
the model trained with LED rollouts and sampled with standard decoding; `base` is the model before training. The
**control** (`top_k_control`) draws from the final layer's k most probable tokens, as LED does, but reads no latent
layer: LED minus control is what the latent layers add. C stands for these k tokens, and **alpha** for the slope of a
least-squares line of accuracy over temperature. LED's **exploit branch** draws from the final layer as often as that
layer is sure; without it, every thinking token is drawn from the mix with latent layers.

Intervals are 95 %: over seeds and problems, both taken as random (the approximate t-test of Cochran and Cox,
`led_rl/study/crossed.py`), or over problems alone (bootstrap) where there is one model. The seeds are those of GRPO;
all runs start from one base model. The p-values of a table are corrected together (Holm), its intervals are not: an
interval may leave out 0 where the verdict is "not shown". Verdicts of claims follow one rule:

* **shown**: corrected p < 0.05, and the difference has the claimed sign;
* **refuted here**: corrected p < 0.05, and it has the other sign;
* **not shown at this n**: otherwise; beside it stands the smallest true difference that so many seeds and problems show
  with a power of 80 %, if no other claim of the table is true;
* **not run yet**.

A premise is about one model: it is shown if the whole interval of its figure lies on the stated side of the bound, and
refuted if all of it lies on the other. Figures of single layers have no interval; there the value decides.

Nothing is claimed beyond the models, sizes and n that are named.
"""


def write_page(page: Path, results: Path, studies: Sequence[Study], options: Sequence[str] = ()) -> None:
    """Writes the page and the figures beside the results.

    Args:
        results: folder of the results files: those of other studies are shown, too.
        studies: those to show, in order; one without results gets a section that says so.
        options: what else the command needs that writes this page.
    """
    page.parent.mkdir(parents=True, exist_ok=True)
    folder = results.name if results.parent == page.parent else str(results)
    recipes = shlex.join([*options, *(_from_here(study.path) for study in studies)])
    given = {study.name: study for study in studies}
    recorded = {path.stem: read_results(path) for path in sorted(results.glob("*.json"))}
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
        told = ("; ".join(_texts(found, verdict)) for verdict in (SHOWN, REFUTED, NOT_SHOWN))
        summary.append((_link(found["recipe"]["title"]), *told))
    head = HEAD.format(folder=folder, recipes=recipes)
    overview = table(("study", SHOWN, REFUTED, NOT_SHOWN), summary)
    page.write_text("\n".join([head, *overview, "", *sections]), encoding="utf-8")


def read_results(path: Path) -> dict[str, Any]:
    """A results file.

    Raises:
        UserError: it cannot be read, or was not written by `led-rl study`.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: not a results file of led-rl study: {error}") from error
    missing = [key for key in KEYS if not isinstance(found, dict) or key not in found]
    if missing:
        raise UserError(f"{path}: not a results file of led-rl study: it has no {missing[0]!r}")
    return dict(found)


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
        *table(
            ("claim", "compares"),
            [(claim.text, f"{claim.figure}: {compared(claim.model_dump())}") for claim in claims],
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
    if "note" in found:
        lines += [_flow(f"**Note.** {found['note']}"), ""]
    if figure:
        lines.append(f"![{recipe['title']}]({figure})\n")
    if found["premises"]:
        lines += ["### Does the method's premise hold for this model?\n", *premises_table(found), ""]
    if found["claims"]:
        lines += ["### Claims\n", *claims_table(found["claims"]), ""]
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
            *claims_table(confirmation["claims"]),
            "",
        ]
    if found["cells"]:
        lines += ["### All cells\n", *cells_table(found["cells"]), ""]
    if found["sweeps"]:
        temperatures = sorted({t for row in found["sweeps"] for t in row["temperatures"].values()})
        lines += [
            f"### Slope of accuracy over temperature {', '.join(f'{t:g}' for t in temperatures)} "
            "(points per unit of temperature)\n",
            *slopes_table(found),
            "",
        ]
    if found["training"]:
        steps = ", ".join(dict.fromkeys(str(row["steps"]) for row in found["training"]))
        lines += [
            f"### Training: mean of the first → last {steps} steps, each seed\n",
            *training_table(found["training"]),
            "",
        ]
    if found["layers"]:
        lines += [
            "### Layers, read on the base model's thoughts\n",
            *layers_table(found["layers"]),
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
        training = recipe["train"]
        steps = f" {training['overrides']['max_steps']} steps by" if "max_steps" in training["overrides"] else ""
        arms = len(training["arms"])
        parts.append(
            f"{_counted(found['seeds'], 'seed')} of {_counted(arms, 'training arm')},{steps} {training['recipe']}"
        )
    if warm_up:
        settings = warm_up["settings"]
        parts.append(
            f"base model: shape `{settings.get('shape', 'quickstart')}`, task `{settings.get('task', 'countdown')}`, "
            f"{settings['steps']} steps of supervised learning in {duration(warm_up['seconds'])}, layer dropout "
            f"{settings.get('layer_dropout', 0)}"
        )
    return f"**n.** {'; '.join(parts)}."


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


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


def _flow(text: str) -> str:
    """A paragraph in lines of at most WIDTH characters."""
    return textwrap.fill(" ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False)
