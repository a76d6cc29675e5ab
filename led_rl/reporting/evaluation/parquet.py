"""An evaluation's completions with their verdicts as one Parquet file, written through datasets."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from led_rl.decoding import UserError
from led_rl.reporting.evaluation.folder import EvaluationFolder
from led_rl.reporting.evaluation.storable_text import storable


def write_parquet(folder: EvaluationFolder, path: Path) -> Path:
    """A row per graded completion; `statistics` is JSON, `correct` and `reward` are null where nothing was judged.

    Raises:
        UserError: the folder records no completions.
    """
    from datasets import Dataset, Features, List, Value

    if not folder.places:
        raise UserError(f"{folder.path} records no completions (completions.jsonl), so there is nothing to export")
    text, count, flag = Value("string"), Value("int64"), Value("bool")
    features = Features(
        {
            **dict.fromkeys(("benchmark", "checkpoint", "arm", "problem"), text),
            "sample": count,
            "seed": Value("uint64"),
            **dict.fromkeys(("prompt", "text"), text),
            "token_ids": List(count),
            **dict.fromkeys(("thinking", "explored"), text),
            "finished": flag,
            "reward": Value("float64"),
            "correct": flag,
            **dict.fromkeys(("gold", "extracted"), text),
            **dict.fromkeys(("thinking_tokens", "answer_tokens"), count),
            "statistics": text,
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as cache:  # else a second export would be the first one's, from the cache
        made: Any = Dataset.from_generator(
            _rows, features=features, cache_dir=cache, gen_kwargs={"folder": folder}, keep_in_memory=False
        )
        made.to_parquet(str(path))
    return path


def _rows(folder: EvaluationFolder) -> Iterator[dict[str, Any]]:
    places = folder.places
    for place, row in zip(places, folder.completions(places), strict=True):
        verdict = folder.verdict(*place[:3])
        assert verdict is not None  # `places` holds graded completions alone
        values = {
            **place.group._asdict(),
            "problem": place.problem,
            "sample": place.sample,
            **{name: row.get(name) for name in ("seed", "prompt", "text", "thinking", "explored")},
            "token_ids": row.get("token_ids") or [],
            **verdict._asdict(),
            "gold": folder.gold(place.group, place.problem),
            "statistics": json.dumps(row.get("statistics")),
        }
        yield {name: storable(value) for name, value in values.items()}
