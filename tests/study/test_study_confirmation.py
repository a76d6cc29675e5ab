"""A screening chooses, fresh seeds and problems confirm; from evaluations written as led-rl evaluate writes them."""

import json

import numpy as np
import pytest
import yaml

from led_rl.study.claims import choose
from led_rl.study.jobs import chains, evaluation_folder
from led_rl.study.loading import load_study
from led_rl.study.results import results
from led_rl.study.run import _confirming, all_jobs

PROBLEMS, SAMPLES = 40, 16
LUCKY = "k_16"  # an arm of the recipe; its screening goes well by chance


def record(study, name, rows, rate):
    """An evaluation of a model under standard decoding, which solves each problem at `rate`."""
    rng = np.random.default_rng([*name.encode()])
    folder = evaluation_folder(study, name, rows)
    folder.mkdir(parents=True)
    lines = []
    key = {"checkpoint": name, "benchmark": "toy", "arm": "standard", "chunk": 0}
    for problem in range(PROBLEMS):
        right = (rng.random(SAMPLES) < rate).tolist()
        lengths = {"thinking_tokens": [20] * SAMPLES, "answer_tokens": [9] * SAMPLES, "finished": [True] * SAMPLES}
        row = {"kind": "problem", **key, "problem": str(problem), "rewards": [float(r) for r in right], **lengths}
        lines.append(row | {"correct": right, "extracted": [None] * SAMPLES})
    lines.append({"kind": "chunk", **key, "problems": PROBLEMS, "wall_s": 1.0, "tokens": 10})
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "summary.json").write_text("[]")


@pytest.fixture
def screened(tmp_path):
    """recipes/study_ablation.yaml after its screening, in which `LUCKY` did best."""
    study = load_study("recipes/study_ablation.yaml", output=str(tmp_path / "runs"))
    for arm in study.training_arms:
        record(study, f"{arm}_seed0", study.recipe.problems.rows, 0.6 if arm == LUCKY else 0.4)
    return study


def test_nothing_is_chosen_before_the_screening_has_ended(tmp_path):
    study = load_study("recipes/study_ablation.yaml", output=str(tmp_path / "runs"))
    confirmation = results(study, "")["confirmation"]
    assert confirmation["chosen"] is None
    assert {claim["verdict"] for claim in confirmation["claims"]} == {"not run yet"}


def test_the_best_of_the_screening_is_run_again_with_fresh_seeds_and_problems(screened):
    jobs = [job.name for chain in _confirming(screened, f"{LUCKY}/standard") for job in chain]
    first, last = screened.recipe.confirm.rows
    assert jobs[:2] == [f"train {LUCKY}_seed10", f"evaluate {LUCKY}_seed10 on rows {first}-{last}"]
    arms = (LUCKY, "led", "standard")
    assert {name for name in jobs if name.startswith("train")} == {
        f"train {arm}_seed{seed}" for arm in arms for seed in (10, 11, 12)
    }
    screening, confirmation = 2 * len(screened.training_arms), 2 * len(arms) * 3
    assert {job.name for job in all_jobs(screened)} >= {*jobs}
    assert len(all_jobs(screened)) == 2 + screening + confirmation  # 2: the warm-up and the base's evaluation


def test_what_won_by_luck_is_not_confirmed(screened):
    for seed in screened.recipe.confirm.seeds:
        for arm, rate in ((LUCKY, 0.5), ("led", 0.5), ("standard", 0.2)):
            record(screened, f"{arm}_seed{seed}", screened.recipe.confirm.rows, rate)
    confirmation = results(screened, "")["confirmation"]
    assert confirmation["chosen"] == f"{LUCKY}/standard"
    by_text = {claim["text"]: claim for claim in confirmation["claims"]}
    assert by_text["the chosen setting trains better than the paper's"]["verdict"] == "not shown at this n"
    assert by_text["it trains better than standard rollouts"]["verdict"] == "shown"
    assert {claim["estimate"]["n"] for claim in by_text.values()} == {PROBLEMS}
    assert by_text["it trains better than standard rollouts"]["first"] == f"{LUCKY}/standard"


def test_a_slope_is_confirmed_by_the_decodings_of_its_sweep(tmp_path):
    study = load_study("recipes/study_collapse.yaml", output=str(tmp_path / "runs"))
    (base, _) = chains(study, [("standard", 0)], study.recipe.problems.rows, ["base/led", "standard/led"])
    arms = [arm["name"] for arm in yaml.safe_load(base[0].settings)["arms"]]
    assert arms == [name for name in study.arms if name.startswith("led T")]


def test_a_problem_without_a_figure_does_not_decide_what_is_chosen():
    class Two:
        def values(self, cell, figure):
            return np.array([[np.nan, 0.1, 0.2] if cell == "low" else [0.9, 0.9, np.nan]])

    assert choose(["low", "high"], "pass@1", Two()) == choose(["high", "low"], "pass@1", Two()) == "high"
