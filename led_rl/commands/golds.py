"""`led-rl golds`: what the gold answers of a dataset are read as, and which are refused, before anything is trained."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from led_rl.commands.arguments import Parser, count
from led_rl.data import EXTRACTIONS, DatasetError, extract_answer, read_rows
from led_rl.decoding import UserError
from rewards.golds import KINDS, GoldReading, explain_golds
from rewards.grader.workers.pool import PoolError, close_shared_pools

DESCRIPTION = """\
Reads the gold answers of DATASET, a JSONL file or a dataset of the hub, as a reward reads them, and prints how many are
read as numbers, intervals, text and so on, with examples, and which ones no answer can be graded against.
Exit status: 0 every gold is usable, 1 some are refused, 2 nothing could be read."""
COLUMNS = ("answer", "gold", "solution", "target", "final_answer")  # the first that the rows have
REFUSED = "unusable"
BATCH = 1_024
WIDEST_EXAMPLE = 48  # characters


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status. Raises UserError."""
    parser = Parser("led-rl golds", description=DESCRIPTION)
    add = parser.add_argument
    add("dataset", help="JSONL file, or id of a dataset on the hub")
    add("--column", help=f"column of the golds (default: the first of {', '.join(COLUMNS)} that the rows have)")
    add("--kind", choices=KINDS, default="math", help="the reward that reads them: math is math_answer (default)")
    add("--extraction", choices=EXTRACTIONS, default="auto", help="where in the column the answer is (default auto)")
    add("--config", help="configuration of a hub dataset")
    add("--split", default="train", help="split of a hub dataset (default train)")
    add("--limit", type=count, help="rows to read (default all)")
    add("--examples", type=count, default=3, help="examples of each kind (default 3)")
    add("--refused", type=count, default=20, help="refused golds to list (default 20)")
    add("--workers", type=count, help="worker processes (default: the CPUs, at most 8)")
    options = parser.parse_args(list(arguments))
    rows = read_rows(options.dataset, options.config, options.split, options.limit)
    golds = list(_golds(rows, options.dataset, options.column, options.extraction))
    try:
        readings = _read(golds, options.kind, options.workers)
    except PoolError as error:
        raise UserError(str(error)) from error
    finally:
        close_shared_pools()
    print(summary(golds, readings, options.examples, options.refused))
    return int(any(each.reason for each in readings))


def _golds(rows: list[dict], source: str, column: str | None, extraction: str) -> Iterator[Any]:
    """The gold of each row, extracted from a text as a recipe's `answer_extraction` does; None where there is none."""
    column = column or next((name for name in COLUMNS if any(name in row for row in rows)), None)
    if column is None or not any(column in row for row in rows):
        missing = "none of " + ", ".join(COLUMNS) if column is None else f"no column {column!r}"
        raise DatasetError(f"{source}: {missing}; columns: {', '.join(rows[0])} (set --column)")
    for row in rows:
        value = row.get(column)
        yield extract_answer(value, extraction) if isinstance(value, str) else value


def _read(golds: list[Any], kind: str, workers: int | None) -> list[GoldReading]:
    from led_rl.terminal.progress_bar import progress_bar

    readings: list[GoldReading] = []
    with progress_bar(len(golds), "reading", "gold") as bar:
        for start in range(0, len(golds), BATCH):
            batch = golds[start : start + BATCH]
            readings += explain_golds(batch, kind, workers)
            bar.advance(len(batch))
    return readings


def summary(golds: Sequence[Any], readings: Sequence[GoldReading], examples: int, refused: int) -> str:
    """Tables of kinds, most frequent first, and of refused golds with their rows, from 1."""
    from led_rl.terminal.tables import text_table

    kinds = Counter(REFUSED if each.reason else each.kind for each in readings)
    shown: dict[str, dict[str, None]] = defaultdict(dict)  # distinct, in the order of the rows
    for gold, each in zip(golds, readings, strict=True):
        kind = REFUSED if each.reason else each.kind
        if len(shown[kind]) < examples:
            same = each.reason or each.shown == str(gold)
            shown[kind][_short(gold) if same else f"{_short(gold)} → {_short(each.shown)}"] = None
    count_of = kinds.total()
    lines = [
        [kind, f"{number:,}", f"{number / count_of:.1%}", "  |  ".join(shown[kind])]
        for kind, number in sorted(kinds.items(), key=lambda item: (item[0] == REFUSED, -item[1], item[0]))
    ]
    share = kinds[REFUSED] / count_of
    parts = [
        text_table(["kind", "golds", "share", "examples (gold → read as)"], lines, texts=[3]),
        f"{count_of:,} golds, {kinds[REFUSED]:,} refused ({share:.1%})",
    ]
    if kinds[REFUSED]:
        reasons = Counter(each.reason for each in readings if each.reason)
        listed = [
            [str(row + 1), _short(golds[row]), each.reason]
            for row, each in enumerate(readings)
            if each.reason is not None
        ][:refused]
        parts.append(
            text_table(["refused because it", "golds"], [[why, f"{n:,}"] for why, n in reasons.most_common(20)])
        )
        parts.append(text_table(["row", "refused gold", "it"], listed, texts=[1, 2]))
    return "\n\n".join(parts)


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= WIDEST_EXAMPLE else text[: WIDEST_EXAMPLE - 1] + "…"
