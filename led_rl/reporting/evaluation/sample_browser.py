"""Completions packed for the page's sample browser: an index of all, and their texts in chunks that are unpacked when
one is looked at.

Everything is JSON in ASCII, gzipped and in base64, so no text of a model's can end the script element it lies in.
A chunk holds whole problems, all arms and checkpoints of each, so that two sides are shown from one chunk.
"""

import base64
import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from led_rl.reporting.evaluation.folder import EvaluationFolder, Place, Verdict
from led_rl.reporting.evaluation.token_texts import token_texts
from led_rl.terminal.token_texts import TokenTexts

CHUNK_CHARACTERS = 1_000_000  # of JSON before it is packed: what one click unpacks
PAGE_MEGABYTES = 64.0
RIGHT, WRONG, NOT_JUDGED = 1, 0, 2


@dataclass(frozen=True)
class SampleBrowser:
    """What the page embeds: `index` and `chunks` are base64 of gzipped JSON; `notes` are shown above the browser."""

    index: str
    chunks: Sequence[str]
    shown: int
    recorded: int
    notes: Sequence[str]


def sample_browser(folder: EvaluationFolder, megabytes: float = PAGE_MEGABYTES) -> SampleBrowser | None:
    """The completions that fit into `megabytes` of page; None for a folder that records none.

    Where not all fit, the first samples of every problem are kept, equally many of each.
    """
    places = folder.places
    if not places:
        return None
    tokenizers, notes = token_texts(folder.manifest)
    ordered = sorted(places, key=_by_problem(places))
    kept = max(place.sample for place in ordered) + 1
    while True:
        chosen = [place for place in ordered if place.sample < kept]
        chunks, rows, seen = _pack(folder, chosen, tokenizers, megabytes)
        if chunks is not None:
            break
        if kept == 1:
            raise_to = f"{megabytes:g} MB do not hold one sample of each problem, so no completion is shown"
            return SampleBrowser(_packed({"rows": []}), [], 0, len(places), [*notes, f"{raise_to}: --megabytes"])
        kept = max(1, min(kept - 1, int(kept * seen)))
    if len(chosen) < len(places):
        notes = [
            *notes,
            f"The browser holds {len(chosen):,} of {len(places):,} completions, the first {kept} of each problem, as "
            f"many as fit into {megabytes:g} MB; --megabytes raises this.",
        ]
    return SampleBrowser(_packed(_index(folder, chosen, rows)), chunks, len(chosen), len(places), notes)


def _by_problem(places: Sequence[Place]) -> Any:
    """Sorts by benchmark and problem as they first came, then checkpoint, arm and sample."""
    orders = [
        {value: i for i, value in enumerate(dict.fromkeys(column))}
        for column in (
            [place.group.benchmark for place in places],
            [(place.group.benchmark, place.problem) for place in places],
            [place.group.checkpoint for place in places],
            [place.group.arm for place in places],
        )
    ]
    return lambda place: (
        orders[0][place.group.benchmark],
        orders[1][place.group.benchmark, place.problem],
        orders[2][place.group.checkpoint],
        orders[3][place.group.arm],
        place.sample,
    )


def _pack(
    folder: EvaluationFolder, places: Sequence[Place], tokenizers: dict[str, TokenTexts], megabytes: float
) -> tuple[list[str] | None, list[list[Any]], float]:
    """Chunks and index rows; instead of chunks None and the share that fitted, once the limit is passed."""
    chunks: list[str] = []
    rows: list[list[Any]] = []
    size = 0
    for chunk in _chunks(folder, places, tokenizers):
        for position, verdict in enumerate(chunk.verdicts):
            rows.append([len(chunks), position, *_figures(verdict, chunk.items[position])])
        content = {"vocabulary": list(chunk.vocabulary), "prompts": list(chunk.prompts), "items": chunk.items}
        chunks.append(_packed(content))
        size += len(chunks[-1])
        if size > megabytes * 1e6:
            return None, [], len(rows) / len(places)
    return chunks, rows, 1.0


@dataclass
class _Chunk:
    """Completions as JSON is made of them; tokens are places in `vocabulary`, prompts in `prompts`."""

    vocabulary: dict[str, int]
    prompts: dict[str, int]
    items: list[dict[str, Any]]
    verdicts: list[Verdict]
    characters: int = 0

    def add(self, row: dict[str, Any], verdict: Verdict, texts: TokenTexts | None) -> None:
        item: dict[str, Any] = {"prompt": self.prompts.setdefault(row["prompt"], len(self.prompts))}
        if texts is None or not row.get("token_ids"):
            item["text"] = row["text"]
        else:
            pieces = texts.pieces(row["token_ids"])
            item["tokens"] = [self.vocabulary.setdefault(piece, len(self.vocabulary)) for piece in pieces]
            item["thinking"] = row["thinking"]
            item["explored"] = row.get("explored") or ""
        item["extracted"] = verdict.extracted
        statistics = row.get("statistics") or {}
        item["led"] = {name: statistics[name] for name in ("rows", "explored", "confidence") if name in statistics}
        self.items.append(item)
        self.verdicts.append(verdict)
        self.characters += len(row["text"]) + 6 * len(row.get("token_ids") or ())


def _chunks(folder: EvaluationFolder, places: Sequence[Place], tokenizers: dict[str, TokenTexts]) -> Iterator[_Chunk]:
    chunk = _Chunk({}, {}, [], [])
    problem = None
    for place, row in zip(places, folder.completions(places), strict=True):
        here = (place.group.benchmark, place.problem)
        if here != problem and chunk.characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk = _Chunk({}, {}, [], [])
        problem = here
        verdict = folder.verdict(place.group, place.problem, place.sample)
        assert verdict is not None  # `places` holds graded completions alone
        chunk.add(row, verdict, tokenizers.get(place.group.checkpoint))
    if chunk.items:
        yield chunk


def _figures(verdict: Verdict, item: dict[str, Any]) -> list[Any]:
    correct = NOT_JUDGED if verdict.correct is None else RIGHT if verdict.correct else WRONG
    explored = item.get("explored", "").count("1") if item.get("explored") else -1  # -1: not recorded
    return [correct, int(verdict.finished), verdict.thinking_tokens, verdict.answer_tokens, verdict.reward, explored]


def _index(folder: EvaluationFolder, places: Sequence[Place], rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Names once, and per completion the places of its names and its figures."""
    benchmarks, checkpoints, arms = (list(dict.fromkeys(place.group[i] for place in places)) for i in range(3))
    problems = list(dict.fromkeys((place.group.benchmark, place.problem) for place in places))
    at = [{name: i for i, name in enumerate(names)} for names in (benchmarks, checkpoints, arms, problems)]
    columns = "benchmark checkpoint arm problem sample chunk position correct finished thinking answer reward explored"
    return {
        "benchmarks": benchmarks,
        "checkpoints": checkpoints,
        "arms": arms,
        "explores": [arm not in folder.arms or folder.arms[arm].decoding.reads_latents for arm in arms],
        "problems": [problem for _, problem in problems],
        "columns": columns.split(),
        "rows": [
            [
                at[0][place.group.benchmark],
                at[1][place.group.checkpoint],
                at[2][place.group.arm],
                at[3][place.group.benchmark, place.problem],
                place.sample,
                *row,
            ]
            for place, row in zip(places, rows, strict=True)
        ],
    }


def _packed(content: Any) -> str:
    text = json.dumps(content, separators=(",", ":"))  # ASCII: a lone surrogate stays an escape
    return base64.b64encode(gzip.compress(text.encode("ascii"), 6, mtime=0)).decode("ascii")
