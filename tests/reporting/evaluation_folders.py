"""Evaluation folders as `led-rl evaluate` writes them, made up: many completions, and hostile texts."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from conftest import character_tokenizer

from led_rl.decoding import DecodingParams
from led_rl.engines.engine import Sampling
from led_rl.evaluation.arms import Arm
from led_rl.evaluation.summary import summarise, write_summary

HOSTILE = (
    '</script><script>document.title="taken"</script>',
    "<img src=x onerror=\"document.title='taken'\"> & <b>bold</b>",
    "\u202eright to left override\u202c \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "nul \x00 bell \x07 escape \x1b[31m",
    "lone \ud800 and \udfff surrogates, \U0001f600 a pair",
    "-->]]> {{ 7 * 7 }} {% raw %} $x^2$ `code` | cell",
)


def write_folder(
    folder: Path,
    problems: int = 6,
    samples: int = 4,
    tokens: int = 60,
    benchmarks=("",),
    checkpoints=("checkpoint-100", "checkpoint-200"),
    arms=("standard", "top_k_control", "led"),
    temperatures=(1.0,),
    tokenizer=True,
    explored=True,
    hostile=False,
    seed=0,
) -> Path:
    """All files of an evaluation. Tokens are characters, of tests/conftest.py's tokenizer, which is saved beside."""
    folder.mkdir(parents=True, exist_ok=True)
    characters = character_tokenizer()
    if tokenizer:
        characters.save_pretrained(folder / "model")
    made = {}
    for temperature in temperatures:
        for name in arms:
            arm = Arm(DecodingParams(decoding=name), Sampling(temperature, max_tokens=tokens, n=samples))
            made[name if len(temperatures) == 1 else f"{name} T {temperature:g}"] = asdict(arm)
    manifest = {
        "format": 1,
        "about": {"engine": "made up", "reward": "math_answer"},
        "arms": made,
        "checkpoints": {label: {"path": str(folder / "model"), "weights": label} for label in checkpoints},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    generator = np.random.default_rng(seed)
    letters = np.array(characters.convert_tokens_to_ids(list("abcdefghij 0123456789+=")))
    end = characters.convert_tokens_to_ids("</think>")
    records, completions = [], []
    for checkpoint in checkpoints:
        for benchmark in benchmarks:
            for arm in made:
                key = {"checkpoint": checkpoint, "benchmark": benchmark, "arm": arm, "chunk": 0}
                for problem in range(problems):
                    rows = []
                    for sample in range(samples):
                        length = int(generator.integers(tokens // 2, tokens))
                        ids = generator.choice(letters, length).tolist()
                        ids[length * 3 // 4] = end
                        text = characters.decode(ids, skip_special_tokens=True)
                        if hostile:
                            text, ids = HOSTILE[(problem + sample) % len(HOSTILE)], []
                        thought = length * 3 // 4 + 1
                        thinking = "1" * thought + "0" * (length - thought)
                        flags = "".join("01"[int(flag)] for flag in generator.random(length) < 0.1)
                        rows.append(
                            {
                                "kind": "completion", **key, "problem": f"p{problem}", "sample": sample, "seed": 7,
                                "prompt": HOSTILE[0] if hostile else f"<|im_start|>user\nproblem {problem}",
                                "text": text, "token_ids": ids, "thinking": thinking,
                                "explored": flags if explored and arm.startswith("led") else "",
                                "finished": bool(generator.random() > 0.1), "wall_s": 0.5,
                                "statistics": {"rows": thought, "explored": 3.0, "confidence": 0.8},
                            }
                        )  # fmt: skip
                    correct = [bool(flag) for flag in generator.random(samples) < 0.2 + 0.1 * (problem % 5)]
                    correct = [None if problem == 1 and sample == 0 else flag for sample, flag in enumerate(correct)]
                    thought = [row["thinking"].count("1") for row in rows]
                    records.append(
                        {
                            "kind": "problem", **key, "problem": f"p{problem}", "gold": str(problem),
                            "rewards": [None if flag is None else float(flag) for flag in correct], "correct": correct,
                            "extracted": [HOSTILE[1] if hostile else str(problem), *[None] * (samples - 1)],
                            "thinking_tokens": thought,
                            "answer_tokens": [len(r["thinking"]) - n for r, n in zip(rows, thought, strict=True)],
                            "finished": [row["finished"] for row in rows],
                        }
                    )  # fmt: skip
                    completions += rows
                chunk = {"kind": "chunk", **key, "problems": problems, "wall_s": 3.0, "tokens": problems * tokens}
                records.append(chunk)
                completions.append(chunk)
    for name, rows in (("completions.jsonl", completions), ("records.jsonl", records)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    if benchmarks == ("",):
        write_summary(folder, summarise(records))
    return folder
