import pytest
import yaml

from led_rl.decoding import UserError
from led_rl.recipe import RecipeError, find_recipe
from led_rl.study.jobs import chains, steps_of, warm_up
from led_rl.study.loading import load_study
from led_rl.study.run import all_jobs, announce


def all_words(job):
    """--key value of a training command, by key."""
    words = job.command[3:]
    return {key.removeprefix("--"): value for key, value in zip(words[::2], words[1::2], strict=True)}


DEFAULT = ["premise", "collapse", "training", "ablation"]  # of `make study`
RECIPES = [*DEFAULT, "collapse_gpu", "training_gpu"]


@pytest.fixture
def recipe_file(tmp_path):
    """`recipe_file({dotted key: value})`: path of recipes/study_training.yaml with these values; None removes one."""

    def write(changes):
        values = yaml.safe_load(find_recipe("recipes/study_training.yaml").read_text())
        for key, value in changes.items():
            *parents, last = key.split(".")
            inner = values
            for parent in parents:
                inner = inner[int(parent)] if isinstance(inner, list) else inner[parent]
            if value is None:
                del inner[last]
            else:
                inner[int(last) if isinstance(inner, list) else last] = value
        path = tmp_path / "study_changed.yaml"
        path.write_text(yaml.safe_dump(values, sort_keys=False))
        return str(path)

    return write


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipes_are_sound(name):
    study = load_study(f"recipes/study_{name}.yaml", runs_here=False)
    assert study.name == name
    assert study.recipe.claims
    assert bool(study.recipe.unproven) == name.endswith("_gpu")


def test_the_training_study_is_as_large_as_it_should_be():
    study = load_study("recipes/study_training.yaml")
    recipe = study.recipe
    assert len(recipe.train.seeds) >= 3
    assert recipe.problems.rows[1] - recipe.problems.rows[0] >= 500
    assert recipe.evaluate.n >= 16
    decodings = {name: arm.decoding.decoding for name, arm in study.arms.items()}
    assert set(decodings.values()) == {"standard", "led"}
    assert {arm.sampling.temperature for arm in study.arms.values()} == {0.6, 1.0}


def test_warnings_of_training_keys_name_their_arm(caplog):
    load_study("recipes/study_training.yaml")
    about = {record.getMessage().partition(": train_support")[0] for record in caplog.records}
    assert "recipes/study_training.yaml: train.arms.led_vocabulary" in about
    assert all(said.startswith("recipes/study_training.yaml: train.arms.led_vocabulary") for said in about)


def test_a_confirmation_has_fresh_seeds_and_problems():
    recipe = load_study("recipes/study_ablation.yaml").recipe
    assert not {*recipe.train.seeds} & {*recipe.confirm.seeds}
    assert recipe.problems.rows[1] <= recipe.confirm.rows[0]


def test_the_default_studies_fit_three_hours_on_two_cores():
    studies = [load_study(f"recipes/study_{name}.yaml") for name in DEFAULT]
    budgets = [study.recipe.budget for study in studies]
    assert all(budget.train_step_s and budget.completion_s for budget in budgets)
    one_warm_up = sum(job.seconds for job in warm_up(studies[0]))
    jobs = [job for study in studies for job in all_jobs(study)]
    alone = one_warm_up + sum(job.seconds for job in jobs if job.kind == "analyse")
    shared = sum(job.seconds for job in jobs if job.kind in ("train", "evaluate"))
    assert alone + shared / 2 < 3 * 3600
    assert "together about" in announce(studies, 2)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"questoin": "?"}, r"unknown key 'questoin'; allowed: title, question"),
        ({"evaluate.sample": 3}, r"unknown key 'evaluate.sample'; allowed: arms, n"),
        ({"claims.0.frist": "x"}, r"unknown key 'claims.0.frist'; allowed: text, figure"),
        ({"title": None}, r"key 'title': field required"),
        ({"evaluate.n": 0}, r"key 'evaluate.n': .*greater than or equal to 1, got 0"),
        ({"problems.rows": [10, 10]}, r"problems.rows: expected \[first, end\) of two rows or more"),
        ({"train.seeds": [1, 1]}, r"each seed may stand once"),
        ({"train.seeds": [-1]}, r"key 'train.seeds.0': .*greater than or equal to 0, got -1"),
        ({"warmup.seed": 2**70}, r"key 'warmup.seed': .*less than 4294967296"),
        ({"train.arms": {"base": {}}}, r"'base' names something else"),
        ({"train.arms.led.led_dpeth": 3}, r"train.arms.led: .*unknown key 'led_dpeth'.*did you mean led_depth"),
        ({"train.arms.led.led_depth": 0}, r"train.arms.led: .*depth"),
        ({"train.recipe": "nowhere.yaml"}, r"train.recipe: recipe 'nowhere.yaml' does not exist"),
        ({"evaluate.arms.0": {"decoding": "ledd"}}, r"evaluate.arms: arm 'ledd'"),
        ({"claims.0.first": "nobody/standard"}, r"claims.0: .*no training arm is called 'nobody'"),
        ({"claims.0.first": "standard/led"}, r"claims.0: 'standard/led': no decoding is called 'led'"),
        ({"claims.0.figure": "pass@3"}, r"claims.0: no figure is called 'pass@3'; figures: pass@1, pass@2"),
        ({"claims.0.figure": "alpha pass@1"}, r"claims.0: .*'standard' has one temperature"),
        ({"claims.0.expected": "bigger"}, r"key 'claims.0.expected'"),
        ({"evaluate.only": {"*": ["beam"]}, "claims": []}, r"evaluate.only: '\*': no decoding is called 'beam'"),
        ({"premises": [{"text": "x", "figure": "final top1", "above": 0.9}]}, r"premises: they need `analyse`"),
        ({"evaluate.n": None, "evaluate.nn": 8}, r"unknown key 'evaluate.nn'; allowed: arms, n"),
        ({"problems.rows": [10, 11]}, r"problems.rows: expected \[first, end\) of two rows or more, got \[10, 11\]"),
        ({"problems.rows": [-1, 5]}, r"key 'problems.rows.0': .*greater than or equal to 0"),
        ({"analyse": {"problems": 501, "max_tokens": 8}}, r"analyse.problems: expected at most 500, got 501"),
        ({"train.seeds": [True]}, r"key 'train.seeds.0': .*valid integer, got True"),
        ({"train.arms": {}}, r"key 'train.arms'"),
        ({"train.overrides": {"seed": 7}}, r"train.overrides: 'seed' is decided by the study itself; leave it out"),
        ({"train.overrides": {"dataset": "x.jsonl"}}, r"train.overrides: 'dataset' is decided by the study itself"),
        ({"train.overrides": {"max-steps": 5}}, r"train.overrides: unknown key 'max-steps'; keys are written with `_`"),
        ({"evaluate.options": {"nope": 1}}, r"evaluate.options: unknown key 'nope'"),
        ({"evaluate.options": {"engine": "nope"}}, r"evaluate: engine must be one of auto, vllm"),
        ({"evaluate.options": {"n": 1}}, r"evaluate.options: 'n' is decided by the study itself; leave it out"),
        ({"problems.columns": {"data": ["x"]}}, r"problems.columns: 'data' is decided by the study itself"),
        ({"problems.reward": "nope"}, r"evaluate: .*nope"),
        ({"evaluate.only": {"ledd": ["standard"]}}, r"evaluate.only: 'ledd' matches no model; models: base, standard"),
        ({"evaluate.only": {"led": ["led", "led"]}}, r"evaluate.only: 'led': each decoding may stand once"),
        ({"claims.0.second": "standard/standard"}, r"claims.0: 'standard/standard' is compared with itself"),
        ({"warmup.layer_dropout": 7}, r"key 'warmup.layer_dropout': .*less than 1"),
        ({"budget.completion_s": float("inf")}, r"key 'budget.completion_s': .*finite"),
        ({"base": ""}, r"key 'base'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_before_anything_runs(recipe_file, changes, says):
    with pytest.raises(RecipeError, match=rf"study_changed.yaml: .*{says}") as refused:
        load_study(recipe_file(changes))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("claim", "says"),
    [
        ({"figure": "nonsense"}, "no figure is called 'nonsense'"),
        ({"figure": "alpha pass@1"}, "'standard' has one temperature"),
        ({"second": "chosen"}, "'chosen' is compared with itself"),
    ],
)
def test_a_claim_about_what_will_be_chosen_is_checked_for_every_candidate(tmp_path, claim, says):
    values = yaml.safe_load(find_recipe("recipes/study_ablation.yaml").read_text())
    values["confirm"]["claims"] = [
        {"text": "x", "figure": "pass@1", "first": "chosen", "second": "led/standard"} | claim
    ]
    path = tmp_path / "study_changed.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    with pytest.raises(RecipeError, match=f"confirm.claims.0: .*{says}"):
        load_study(str(path))


def test_rows_beyond_the_problems_are_refused_before_the_screening(tmp_path):
    values = yaml.safe_load(find_recipe("recipes/study_ablation.yaml").read_text())
    values["problems"]["file"] = str(tmp_path / "test.jsonl")
    (tmp_path / "test.jsonl").write_text('{"problem": "1\u2028"}\n' * 600)
    path = tmp_path / "study_changed.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    with pytest.raises(UserError, match=r"study_changed.yaml: confirm.rows \[600, 720\]: .*test.jsonl has 600 rows"):
        load_study(str(path))


def test_every_run_is_trained_and_sampled_with_its_decodings():
    study = load_study("recipes/study_training.yaml")
    made = chains(study, [("led", 2), ("standard_T06", 2)], (0, 500))
    assert [[job.name for job in chain] for chain in made] == [
        ["evaluate base on rows 0-500"],
        ["train led_seed2", "evaluate led_seed2 on rows 0-500"],
        ["train standard_T06_seed2", "evaluate standard_T06_seed2 on rows 0-500"],
    ]
    train, evaluate = made[2]
    words = all_words(train)
    assert {"temperature": "0.6", "decoding": "standard", "seed": "2"}.items() <= words.items()
    assert words["output_dir"] == "runs/study/training/standard_T06_seed2"
    assert steps_of(study, "led") == int(words["max_steps"])
    settings = yaml.safe_load(evaluate.settings)
    assert settings["checkpoints"] == {"standard_T06_seed2": words["output_dir"]}
    assert [arm["name"] for arm in settings["arms"]] == ["standard T 0.6"]


def test_an_evaluation_s_arms_are_those_of_the_study():
    """As mappings they say the same as the recipe's."""
    from led_rl.evaluation.arms import parse_arms

    study = load_study("recipes/study_ablation.yaml")
    (base, *_) = chains(study, [("led", 0)], (0, 10))
    (_, evaluate) = chains(study, [("led", 0)], (0, 10))[1]
    settings = yaml.safe_load(evaluate.settings)
    defaults = {"temperature": 0.3, "top_p": 0.1, "top_k": 3, "min_p": 0.2, "max_tokens": 1, "depth": 2, "k": 3}
    assert parse_arms(settings["arms"], defaults) == study.arms
    assert base[0].kind == "evaluate"
