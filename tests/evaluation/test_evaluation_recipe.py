"""Recipes of evaluations: file and command line, other names of keys, and what is refused."""

import pytest
import yaml

from led_rl.decoding import DecodingParams, UserError
from led_rl.engines.engine import Sampling
from led_rl.evaluation.arms import comparisons_with, parse_arms
from led_rl.evaluation.benchmarks import known_benchmarks
from led_rl.evaluation.engine_building import _vllm_options
from led_rl.evaluation.recipe import KEYS, EvaluationRecipe, help_text, load_evaluation
from led_rl.methods.properties import DECODINGS
from led_rl.recipe import recipe_folders
from led_rl.sampler.capture_options import EngineOptions


def write(path, **values):
    path.write_text(yaml.safe_dump(values))
    return str(path)


@pytest.fixture
def recipe(tmp_path):
    return write(tmp_path / "mine.yaml", checkpoints=["a"], benchmarks=["gsm8k"], arms=["led", "standard T 0.2"], n=4)


@pytest.mark.parametrize("name", ["evaluate_led", "evaluate_ablation", "evaluate_quickstart"])
def test_shipped_recipes_load_and_their_arms_parse(name):
    recipe = load_evaluation([f"recipes/{name}.yaml"])
    arms = parse_arms(recipe.arms, recipe.arm_defaults)
    assert set(recipe.benchmarks) <= set(known_benchmarks())
    assert {"standard", "top_k_control", "led"} <= set(arms)
    assert load_evaluation([f"{name}.yaml"]) == recipe  # found by name, too
    if recipe.baselines:
        pairs = comparisons_with(recipe.baselines, arms)
        assert ("think-only off", "led") in pairs
        assert ("led", "standard") in pairs
        assert ("standard", "led") not in pairs


def test_the_paper_s_table_is_its_models_benchmarks_and_decodings():
    recipe = load_evaluation(["evaluate_paper.yaml"])
    arms = parse_arms(recipe.arms, recipe.arm_defaults)
    assert list(arms)[:5] == ["standard", "dola", "soft_thinking", "soft_thinking_gumbel", "led"]
    assert all(arm.decoding.decoding == name for name, arm in arms.items())
    assert set(arms) == set(DECODINGS) - {"top_k_control", "led_reference"}
    assert {arm.sampling for arm in arms.values()} == {Sampling(0.6, 0.95, 20, 0.0, max_tokens=16384)}
    assert arms["dola"].decoding == DecodingParams("dola", dola_layers="low", dola_relative_top=0.1)
    assert arms["led"].decoding == DecodingParams("led", depth=8, k=8)
    assert (recipe.n, len(recipe.checkpoints), len(recipe.benchmarks)) == (16, 5, 6)
    assert set(recipe.benchmarks) <= set(known_benchmarks())
    assert comparisons_with(recipe.baselines, arms) == [(name, "standard") for name in arms if name != "standard"]
    options = _vllm_options(recipe, 36, True, arms, longest_prompt=1000)  # of Qwen3-4B-Thinking
    engine = EngineOptions(options["depth"], options["latent_layers"], baselines=options["baselines"])
    captured = engine.captured_layers(36, tied=True)
    assert all(set(arm.decoding.layers(36, True)) <= set(captured) for arm in arms.values())
    assert captured[:7] == arms["led"].decoding.layers(36)
    assert all(engine.admits(n) for n, arm in arms.items() if arm.decoding.properties.changes_forward)


def test_the_ablations_are_the_paper_s():
    recipe = load_evaluation(["evaluate_ablation.yaml"])
    changed = {
        name: {key: value for key, value in vars(arm.decoding).items() if value != vars(parsed["led"].decoding)[key]}
        for parsed in [parse_arms(recipe.arms, recipe.arm_defaults)]
        for name, arm in parsed.items()
    }
    assert changed["think-only off"] == {"think_only": False}
    assert changed["exploit off"] == {"exploit": False}
    assert changed["norm on"] == {"latent_norm": True}
    assert changed["no top-k"] == {"k": 1024}
    assert changed["reference layers"] == {"latent_layers": (34, 33, 32, 31, 30, 29, 28)}
    assert changed["product"] == {"aggregation": "product"}


def test_the_command_line_wins(recipe, tmp_path):
    assert load_evaluation([recipe]).output == "runs/mine"
    changed = load_evaluation([recipe, "--n", "2", "--output=out", "--seeds", "3", "4", "--enable-thinking", "false"])
    assert (changed.n, changed.output, changed.seeds) == (2, "out", [3, 4])
    assert changed.chat_template_options == {"enable_thinking": False}
    assert changed.arms == ["led", "standard T 0.2"]
    assert load_evaluation([recipe, "--arms", "led T 1", "standard"]).arms == ["led T 1", "standard"]
    assert load_evaluation([recipe, "--arms", "led,standard"]).arms == ["led", "standard"]
    assert load_evaluation([recipe, "--baselines", "led"]).baselines == ["led"]
    assert load_evaluation([recipe, "--checkpoints", "b=x", "c=y"]).checkpoints == ["b=x", "c=y"]


def test_the_flags_of_old_are_keys():
    command = ["--model", "base=x", "y", "--data", "rows.jsonl", "--reward", "countdown", "--decodings", "standard,led"]
    recipe = load_evaluation([*command, "--seed", "7", "--regrade", "--top-p", "0.9", "--output", "out"])
    assert recipe.checkpoints == ["base=x", "y"]
    assert (recipe.arms, recipe.seeds, recipe.data) == (["standard", "led"], [7], ["rows.jsonl"])
    assert (recipe.regrade, recipe.top_p, recipe.reward) == (True, 0.9, "countdown")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nn", "2"], "command line|mine.yaml.*unknown key 'nn'"),
        (["--n"], "--n has no value"),
        (["--n", "two"], "key 'n': int expected, got 'two'"),
        (["--n", "true"], "key 'n': int expected, got True"),
        (["--limit", "0"], "limit: expected an integer >= 1, got 0"),
        (["--seeds", "1", "1"], r"seeds: each may stand once, got \[1, 1\]"),
        (["--model", "x", "--checkpoints", "y"], "'checkpoints' is another name of 'checkpoints'|another name"),
        (["--data", "rows.jsonl"], "reward is missing"),
        (["--engine", "sglang"], "engine must be one of auto, vllm, transformers; got 'sglang'"),
        (["--bad-golds", "keep"], "bad_golds must be one of refuse, drop; got 'keep'"),
        (["--correct-from", "inf"], "correct_from: expected a finite number"),
        (["stray"], "--key value expected, got 'stray'"),
        (["--n", "100000000"], "n: expected an integer >= 1 and <= 100000, got 100000000"),
        (["--top-k", str(2**40)], "top_k: expected an integer >= 1, or 0 for no limit, got 1099511627776"),
        (["--max-num-seqs", "1000000"], "max_num_seqs: expected an integer >= 1 and <= 65536"),
        (["--decodings", "led", "--arms", "led"], "'decodings' is another name of 'arms'"),
        (["--report-to", "none,wandb"], "report_to: none stands alone"),
        (["--dtype", "float7"], "dtype must be one of auto, .*got 'float7'"),
        (["--engine", "transformers", "--dtype", "float16"], "dtype: engine: transformers has no such option"),
        (["--engine", "transformers", "--engine-arguments", "{x: 1}"], "engine_arguments: engine: transformers has no"),
        (["--engine-arguments", "{depth: 3}"], "engine_arguments: depth follows from the recipe's arms"),
        (["--chat-template-options", "{tokenize: false}"], "chat_template_options: tokenize is set by the evaluation"),
    ],
)
def test_mistakes_are_named(recipe, arguments, message):
    with pytest.raises(UserError, match=message):
        load_evaluation([recipe, *arguments])


def test_what_must_be_there(tmp_path):
    with pytest.raises(UserError, match="output is missing"):
        load_evaluation(["--checkpoints", "x", "--benchmarks", "gsm8k"])
    with pytest.raises(UserError, match="checkpoints is missing"):
        load_evaluation([write(tmp_path / "a.yaml", benchmarks=["gsm8k"])])
    with pytest.raises(UserError, match="benchmarks is missing"):
        load_evaluation([write(tmp_path / "a.yaml", checkpoints=["x"])])
    with pytest.raises(UserError, match=r"recipe 'nowhere\.yaml' does not exist"):
        load_evaluation(["nowhere.yaml"])
    bad = {"checkpoints: [": "not YAML", "n: 2\nn: 3": "not YAML: the key 'n' stands twice", "[n]": "lines expected"}
    for text, message in bad.items():
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(UserError, match=message):
            load_evaluation([str(tmp_path / "bad.yaml")])


def test_a_file_of_another_system_is_read_alike(tmp_path):
    (tmp_path / "windows.yaml").write_bytes(b"\xef\xbb\xbfcheckpoints: [a]\r\nbenchmarks: [gsm8k]\r\nn: 3\r\n")
    assert load_evaluation([str(tmp_path / "windows.yaml")]).n == 3


def test_arms_on_the_command_line_may_hold_lists_and_mappings(recipe):
    arms = {
        "led T [0.2, 0.6]": ["led T 0.2", "led T 0.6"],
        "led T [0.2,0.6],standard": ["led T 0.2", "led T 0.6", "standard"],
        "led latent_layers [3,2]": ["led latent_layers [3, 2]"],
        "{name: a, decoding: led, temperature: [0.2, 1]}": ["a T 0.2", "a T 1"],
    }
    for text, names in arms.items():
        loaded = load_evaluation([recipe, "--arms", text])
        assert list(parse_arms(loaded.arms, loaded.arm_defaults)) == names


def test_a_baseline_that_is_no_arm():
    arms = parse_arms(["led"], EvaluationRecipe(["a"], ["gsm8k"]).arm_defaults)
    with pytest.raises(UserError, match="baselines: no arm is called 'standard'; arms: led"):
        comparisons_with(["standard"], arms)


def test_help_names_every_key():
    text = help_text()
    assert all(f"  {key} (" in text for key in KEYS)
    assert all(path.is_dir() for path in recipe_folders())
