"""An evaluation in Inspect's log format, so that `inspect view` opens it: a log per benchmark, checkpoint and arm.

A problem is a sample of the log and its completions are epochs. The score is C (correct), I (incorrect), or none for a
completion that could not be judged.
"""

import math
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from led_rl.decoding import UserError
from led_rl.reporting.evaluation.folder import EvaluationFolder, Group, Place
from led_rl.reporting.evaluation.storable_text import storable

SCORER = "led_rl"


def write_inspect_logs(folder: EvaluationFolder, output: Path) -> list[Path]:
    """Writes `<benchmark>_<checkpoint>_<arm>.eval` files into `output`; returns their paths.

    Raises:
        UserError: the library inspect_ai is not installed, or the folder records no completions.
    """
    try:
        from inspect_ai.log import write_eval_log
    except ImportError as error:
        raise UserError('inspect_ai is not installed: pip install "led-rl[inspect]"') from error

    by_group: dict[Group, list[Place]] = {}
    for place in folder.places:
        by_group.setdefault(place.group, []).append(place)
    if not by_group:
        raise UserError(f"{folder.path} records no completions (completions.jsonl), so there is nothing to export")
    output.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for group, places in by_group.items():
        name = "_".join(re.sub(r"[^\w.-]+", "-", part) for part in group if part)
        path = output / f"{name}.eval"
        if path in paths:  # two names that differ only in characters replaced above
            path = output / f"{name}-{len(paths)}.eval"
        write_eval_log(_log(folder, group, places), str(path))
        paths.append(path)
    return paths


def _log(folder: EvaluationFolder, group: Group, places: list[Place]) -> Any:
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalResults, EvalSpec, EvalStats

    created = datetime.fromtimestamp((folder.path / "completions.jsonl").stat().st_mtime, UTC).isoformat()
    problems = list(dict.fromkeys(place.problem for place in places))
    arm = folder.manifest.get("arms", {}).get(group.arm, {})
    checkpoint = folder.manifest.get("checkpoints", {}).get(group.checkpoint, {})
    spec = EvalSpec(
        created=created,
        task=storable(group.benchmark or folder.path.resolve().name),
        model=storable(f"{group.checkpoint}/{group.arm}"),
        dataset=EvalDataset(name=storable(group.benchmark) or None, samples=len(problems), sample_ids=list(problems)),
        config=EvalConfig(epochs=max(place.sample for place in places) + 1),
        metadata={"arm": group.arm, "checkpoint": group.checkpoint, "path": checkpoint.get("path"), **arm},
    )
    samples = [_sample(folder, place, row) for place, row in zip(places, folder.completions(places), strict=True)]
    scored = sum(bool(sample.scores) for sample in samples)
    return EvalLog(
        status="success",
        eval=spec,
        results=EvalResults(
            total_samples=len(samples), completed_samples=len(samples), scores=[_score(folder, group, scored)]
        ),
        stats=EvalStats(started_at=created, completed_at=created),
        samples=samples,
    )


def _score(folder: EvaluationFolder, group: Group, scored: int) -> Any:
    """pass@1, as `accuracy` that Inspect's viewer looks for, and every other figure with its interval."""
    from inspect_ai.log import EvalMetric, EvalScore

    rows = [row for row in folder.rows.get(group.benchmark, ()) if (row.checkpoint, row.arm) == group[1:]]
    metrics = {}
    for name, estimate in rows[0].metrics.items() if rows else ():
        if math.isfinite(estimate.value):
            shown = "accuracy" if name == "pass@1" else name
            ends = {"low": estimate.low, "high": estimate.high}
            about = {key: end for key, end in ends.items() if math.isfinite(end)} | {"n": estimate.n}
            metrics[shown] = EvalMetric(name=shown, value=estimate.value, metadata=about)
    return EvalScore(name=SCORER, scorer=SCORER, scored_samples=scored, metrics=metrics)


def _sample(folder: EvaluationFolder, place: Place, row: dict[str, Any]) -> Any:
    from inspect_ai.log import EvalSample
    from inspect_ai.model import ChatMessageUser, ModelOutput, ModelUsage
    from inspect_ai.scorer import CORRECT, INCORRECT, Score

    verdict = folder.verdict(*place[:3])
    assert verdict is not None  # `places` holds graded completions alone
    text, prompt = storable(row["text"]), storable(row["prompt"])
    tokens = verdict.thinking_tokens + verdict.answer_tokens
    output = ModelOutput.from_content(
        storable(place.group.checkpoint), text, stop_reason="stop" if verdict.finished else "max_tokens"
    )
    output.usage = ModelUsage(output_tokens=tokens, total_tokens=tokens, reasoning_tokens=verdict.thinking_tokens)
    scores = {}
    if verdict.correct is not None:
        value = CORRECT if verdict.correct else INCORRECT
        answer = storable(verdict.extracted)
        scores[SCORER] = Score(value=value, answer=answer, metadata={"reward": verdict.reward})
    return EvalSample(
        id=storable(place.problem),
        epoch=place.sample + 1,
        input=prompt,
        target=storable(folder.gold(place.group, place.problem)) or "",
        messages=[ChatMessageUser(content=prompt), output.message],
        output=output,
        scores=scores,
        metadata={
            "seed": row["seed"],
            "thinking_tokens": verdict.thinking_tokens,
            "answer_tokens": verdict.answer_tokens,
            "explored": row.get("explored") or "",
            "statistics": row.get("statistics"),
        },
    )
