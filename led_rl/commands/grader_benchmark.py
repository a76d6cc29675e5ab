"""`led-rl benchmark-grader`: accuracy, time and safety of the graders, beside math-verify, sympy and harnesses."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

from led_rl.commands.arguments import Parser, count, seed
from led_rl.decoding import UserError
from led_rl.terminal.tables import text_table
from rewards.grader.benchmark import (
    CASES,
    HOSTILE_KIND,
    Case,
    Figures,
    Result,
    figures,
    leak_check,
    load_cases,
    measure,
    mix_in_hostile,
    wilson,
)
from rewards.grader.peers import PEERS, peer_pool
from rewards.grader.workers.pool import PoolError, WorkerPool

DESCRIPTION = """\
Grades cases with known verdicts one after the other on one worker: by math_answer, by math-verify as TRL and as
lighteval call it, and by sympy alone. Prints one table and the cases on which the graders differ.
--unboxed compares graders of completions without a box instead: math_answer's and those of harnesses.
Exit status: 0 math_answer reaches its measures, 1 it misses one, 2 nothing could be measured."""
GRADER = "math_answer"
DRAWN = 600  # cases; about 20 hostile answers among them


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status. Raises UserError."""
    parser = Parser("led-rl benchmark-grader", description=DESCRIPTION)
    add = parser.add_argument
    add("--cases", type=Path, action="append", default=[], help="also these: a JSONL file {gold, prediction, correct "
        "(or want), kind}, or a folder of them, without its choice_letter* and unboxed_*; may be repeated")  # fmt: skip
    add("--only", action="store_true", help="the cases of --cases alone, without the project's own")
    add("--limit", type=count, help=f"of the project's cases to draw (default {DRAWN}, as peers spend seconds on "
        "hostile answers; with --peers none: all)")  # fmt: skip
    add("--seed", type=seed, default=0, help="of the draw and of the order (default 0)")
    add("--peers", default=",".join(PEERS), help=f"graders beside math_answer, or none (default {','.join(PEERS)})")
    add("--disagreements", type=Path, help="JSONL file to write: every case on which a grader differs from its verdict")
    add("--shown", type=count, default=12, help="disagreements to print (default 12)")
    add("--answers", type=count, help="leak check over this many answers")
    add("--unboxed", action="store_true", help="compare graders of completions without a box")
    options = parser.parse_args(list(arguments))
    try:
        if options.unboxed:
            from led_rl.commands.unboxed_graders import agreement

            print(agreement(CASES))
            return 0
        peers = [] if options.peers == "none" else options.peers.split(",")
        if unknown := [name for name in peers if name not in PEERS]:
            raise UserError(f"argument --peers: unknown grader {unknown[0]!r}; allowed: {', '.join(PEERS)}, or none")
        if options.only and not options.cases:
            raise UserError("argument --only: give --cases, too")
        given = [case for path in options.cases for case in load_cases(path)]
        own = [] if options.only else load_cases(CASES)
        limit = options.limit or (DRAWN if peers else len(own))
        cases = given + (Random(options.seed).sample(own, limit) if limit < len(own) else own)
        mixed = mix_in_hostile(cases, options.seed)
        results = {GRADER: measure(mixed, WorkerPool(1))}
        for name in peers:
            results[PEERS[name][0]] = measure(mixed, peer_pool(name))
        reached = {name: figures(mixed, measured) for name, measured in results.items()}
        print(f"{len(cases):,} cases and {len(mixed) - len(cases)} hostile answers, one worker, one answer at a time\n")
        print(accuracy_table(reached))
        differing = disagreements(mixed, results)
        if options.disagreements:
            _write(options.disagreements, differing)
        if results.keys() - {GRADER} or not reached[GRADER].passed:
            print(
                f"\n{len(differing):,} cases on which a grader is wrong" + shown_disagreements(differing, options.shown)
            )
        passed = reached[GRADER].passed
        if options.answers:
            passed &= leak_check(mixed, options.answers)
    except (ValueError, OSError, PoolError) as error:
        raise error if isinstance(error, UserError) else UserError(str(error)) from error
    return 0 if passed else 1


def accuracy_table(reached: Mapping[str, Figures]) -> str:
    """A line for each grader."""
    head = ["grader", "right", "95 % interval", "false positives", "false negatives", "p50 ms", "p99 ms with hostile",
            "slowest hostile s"]  # fmt: skip
    lines = []
    for name, figure in reached.items():
        low, high = wilson(figure.right, figure.cases)
        lines.append(
            [
                name,
                f"{figure.accuracy:.1%}",
                f"[{low:.1%}, {high:.1%}]",
                f"{figure.false_positives}",
                f"{figure.false_negatives}",
                f"{figure.p50 * 1e3:.2f}",
                f"{figure.p99 * 1e3:.1f}",
                f"{figure.slowest_hostile:.2f}",
            ]
        )
    return text_table(head, lines)


def disagreements(cases: Sequence[Case], results: Mapping[str, Sequence[Result]]) -> list[dict]:
    """Cases on which at least one grader is wrong, with every verdict; those of math_answer first."""
    rows = []
    for place, case in enumerate(cases):
        verdicts = {name: measured[place][0] for name, measured in results.items()}
        if case.kind != HOSTILE_KIND and any(_is_wrong(case.correct, verdict) for verdict in verdicts.values()):
            rows.append({"kind": case.kind, "gold": case.gold, "prediction": case.prediction, "correct": case.correct,
                         "verdicts": verdicts})  # fmt: skip
    return sorted(rows, key=lambda row: not _is_wrong(row["correct"], row["verdicts"][GRADER]))


def shown_disagreements(rows: Sequence[dict], most: int) -> str:
    """The cases on which math_answer is wrong, then some from all kinds; an empty text for none."""
    if not rows:
        return ""
    by_kind: dict[str, list[dict]] = {}
    for row in rows:
        by_kind.setdefault(row["kind"], []).append(row)
    wrong = [row for row in rows if _is_wrong(row["correct"], row["verdicts"][GRADER])]
    spread = [group[0] for group in by_kind.values() if group[0] not in wrong]
    picked = [*wrong, *spread][:most]
    names = list(rows[0]["verdicts"])
    sign = {True: "right", False: "wrong", None: "no gold"}
    lines = [
        [row["kind"], _short(row["gold"]), _short(row["prediction"]), sign[row["correct"]]]
        + [sign[row["verdicts"][name]] for name in names]
        for row in picked
    ]
    head = ["kind", "gold", "prediction", "is", *names]
    return f", {len(picked)} of them:\n\n{text_table(head, lines, texts=range(len(head)))}"


def _is_wrong(correct: bool | None, verdict: bool | None) -> bool:
    return (verdict is True) is not (correct is True)


def _write(path: Path, rows: Sequence[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _short(text: str, most: int = 40) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[:12]}…{text[13 - most :]}"
