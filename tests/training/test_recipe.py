"""A recipe becomes checked dataclasses; whatever is wrong with it is one error that names file, key, value, allowed."""

import dataclasses

import pytest
import yaml
from subprocesses import ROOT
from trl import GRPOConfig, TrlParser

from led_rl.decoding import DecodingParams
from led_rl.methods.properties import PROPERTIES, owners
from led_rl.recipe import RecipeError
from led_rl.training.config import LEDGRPOConfig
from led_rl.training.recipe import help_text, known_keys, load_recipe

BASE = {
    "model_name_or_path": "some/model",
    "dataset": "some/dataset",
    "rewards": [{"name": "math_answer"}],
    "use_cpu": True,
    "bf16": False,
    "num_generations": 4,
    "per_device_train_batch_size": 8,
}


@pytest.fixture
def recipe_file(tmp_path, monkeypatch):
    """`recipe_file(**changes)`: path of a recipe; a value of `...` leaves its key out."""
    monkeypatch.chdir(tmp_path)

    def write(**changes):
        values = {key: value for key, value in (BASE | changes).items() if value is not ...}
        path = tmp_path / "recipes" / "run.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        return str(path)

    return write


def refusal(arguments) -> str:
    with pytest.raises(RecipeError) as error:
        load_recipe(arguments)
    return str(error.value)


def test_each_key_reaches_its_dataclass(recipe_file):
    recipe = load_recipe([recipe_file(decoding="led", led_depth=4, dtype="float32", max_rows=5, temperature=0.5)])
    assert (recipe.run.dataset, recipe.run.max_rows) == ("some/dataset", 5)
    assert (recipe.training.led_depth, recipe.training.temperature) == (4, 0.5)
    assert (recipe.model.model_name_or_path, recipe.model.dtype) == ("some/model", "float32")
    assert recipe.training.decoding_params().depth == 4


def test_a_run_is_named_after_its_recipe(recipe_file):
    recipe = load_recipe([recipe_file()])
    assert str(recipe.output_dir) == "runs/run"
    assert recipe.training.run_name == "run"
    assert str(load_recipe([recipe_file(output_dir="here")]).output_dir) == "here"


def test_defaults_are_those_under_which_led_trains(recipe_file):
    training = load_recipe([recipe_file(decoding="led")]).training
    assert training.vllm_importance_sampling_mode == "token_truncate"
    assert training.vllm_importance_sampling_correction
    assert training.use_vllm
    assert training.logging_steps == 1  # in recipes
    assert load_recipe([recipe_file()]).training.use_vllm
    decoding = training.decoding_params()
    assert (decoding.depth, decoding.k, decoding.exploit, decoding.think_only) == (8, 8, True, True)


def test_defaults_that_trl_s_users_meet_are_trl_s(tmp_path):
    common = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False}
    ours, theirs = vars(LEDGRPOConfig(**common)), vars(GRPOConfig(**common))
    changed = {name for name, value in theirs.items() if ours[name] != value and not name.startswith("_")}
    assert changed - {"distributed_state"} == {"vllm_importance_sampling_mode"}
    assert LEDGRPOConfig(**common, decoding="led").use_vllm  # LED needs it
    copy = LEDGRPOConfig.standard(GRPOConfig(**common, top_k=5, use_vllm=True))
    assert (copy.decoding, copy.train_support, copy.needs_supports) == ("standard", "vocabulary", False)
    assert copy.vllm_importance_sampling_mode == GRPOConfig(**common).vllm_importance_sampling_mode


def test_dictionaries_are_read_from_trl_s_command_line(tmp_path):
    arguments = ["--output_dir", str(tmp_path), "--use_cpu", "true", "--bf16", "false", "--decoding", "led"]
    arguments += ["--vllm_engine_arguments", '{"max_num_seqs": 16}', "--generation_kwargs", '{"min_tokens": 2}']
    (config,) = TrlParser(LEDGRPOConfig).parse_args_and_config(arguments)
    assert config.vllm_engine_arguments == {"max_num_seqs": 16}
    assert config.generation_kwargs == {"min_tokens": 2}
    assert (config.decoding, config.use_vllm) == ("led", True)


def test_data_seed_has_no_effect_and_says_so(tmp_path, caplog):
    LEDGRPOConfig(str(tmp_path), use_cpu=True, bf16=False, data_seed=7)
    assert "data_seed: 7 has no effect" in caplog.text


def test_the_command_line_wins_over_the_file(recipe_file):
    path = recipe_file(decoding="led", led_depth=4, learning_rate="1e-6")
    assert load_recipe([path]).training.learning_rate == 1e-6  # YAML reads this as text
    overrides = ["--led_depth", "3", "--led-k=5", "--led_exploit", "false", "--learning_rate", "2e-5"]
    lists = ["--led_latent_layers", "[5, 3]", "--rewards", "[{name: countdown, weight: 2}]"]
    recipe = load_recipe([path, *overrides, *lists, "--led_depth", "2"])
    training = recipe.training
    assert (training.led_depth, training.led_k, training.led_exploit, training.learning_rate) == (2, 5, False, 2e-5)
    assert training.led_latent_layers == [5, 3]
    assert recipe.run.rewards == [{"name": "countdown", "weight": 2}]
    assert recipe.values["led_k"] == 5


@pytest.mark.parametrize("text", ["{problem}", "{problem} or {x}?", "2024", "yes: {problem}", "[{problem}"])
def test_text_on_the_command_line_is_text(recipe_file, text):
    recipe = load_recipe([recipe_file(), "--system_prompt", text])
    assert recipe.run.system_prompt == text


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["RECIPE.yaml", "comes first"]),
        (["--led_k", "4"], ["comes first"]),
        (["RECIPE", "led_k", "4"], ["--key value expected", "'led_k'"]),
        (["RECIPE", "--led_k"], ["--led_k has no value"]),
        (["RECIPE", "--led_k", "[4"], ["--led_k", "'[4'"]),
    ],
)
def test_a_command_line_that_cannot_be_read(recipe_file, arguments, parts):
    message = refusal([recipe_file() if argument == "RECIPE" else argument for argument in arguments])
    assert all(part in message for part in parts)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a: [1, 2", "not YAML"),
        (b"a: 1\n\t- b: : c", "not YAML"),
        (b"caf\xe9: 1", "not YAML"),
        (b"- 1\n- 2", "got list"),
        (b"", "got NoneType"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path, content, reason):
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    message = refusal([str(path)])
    assert str(path) in message
    assert reason in message


def test_a_recipe_that_does_not_exist(tmp_path):
    assert str(tmp_path / "nowhere.yaml") in refusal([str(tmp_path / "nowhere.yaml")])


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"led_detph": 4}, ["'led_detph'", "given 4", "led_depth"]),
        ({"learning-rate": 1}, ["'learning-rate'", "learning_rate"]),
        ({"qqqq": 4}, ["'qqqq'", "--help"]),
        ({"led_k": 2.5}, ["'led_k'", "int expected", "2.5"]),
        ({"led_k": True}, ["'led_k'", "int expected", "True"]),
        ({"led_depth": None}, ["'led_depth'", "int", "nothing"]),
        ({"led_k": "many"}, ["'led_k'", "int expected", "'many'"]),
        ({"led_exploit": "maybe"}, ["'led_exploit'", "bool expected", "'maybe'"]),
        ({"temperature": "hot"}, ["'temperature'", "float expected", "'hot'"]),
        ({"led_latent_layers": 3}, ["'led_latent_layers'", "list[int]", "got 3"]),
        ({"max_rows": "few"}, ["'max_rows'", "int expected", "'few'"]),
        ({"rewards": "math_answer"}, ["'rewards'", "list[dict[str, Any]] expected", "'math_answer'"]),
        ({"dataset": 5}, ["'dataset'", "str expected", "5"]),
        ({"dataset": ...}, ["dataset is missing"]),
        ({"rewards": ...}, ["rewards is missing"]),
        ({"model_name_or_path": ...}, ["model_name_or_path is missing"]),
        ({"rewards": [{"nam": "x"}]}, ["rewards", "needs a name", "'nam'"]),
        ({"rewards": [{"name": "x", "weight": "y"}]}, ["rewards", "weight of 'x'", "number", "'y'"]),
        ({"answer_extraction": "first"}, ["answer_extraction", "last_box", "'first'"]),
        ({"bad_golds": "keep"}, ["bad_golds", "refuse, drop", "'keep'"]),
        ({"resume": "maybe"}, ["resume", "auto, never", "'maybe'"]),
        ({"wandb_mode": "on"}, ["wandb_mode", "online, offline, disabled", "'on'"]),
        ({"max_rows": 0}, ["max_rows", "at least 1", "0"]),
        ({"prompt_template": "solve it"}, ["prompt_template", "{problem}", "'solve it'"]),
        ({"decoding": "doll"}, ["decoding", "standard, led, top_k_control", "'doll'"]),
        ({"decoding": "led", "led_depth": 0}, ["led_depth", ">= 1", "0"]),
        ({"decoding": "led", "led_latent_layers": [3, 3]}, ["led_latent_layers", "[3, 3]"]),
        ({"led_think_start": "now"}, ["led_think_start", "prompt, marker", "'now'"]),
        ({"vllm_importance_sampling_mode": "token"}, ["vllm_importance_sampling_mode", "token_mask", "'token'"]),
        ({"report_to": "wandbb"}, ["report_to", "wandbb", "wandb"]),
        ({"num_generations": 3}, ["num_generations", "3"]),
        ({"lr_scheduler_type": "flat"}, ["flat", "constant_with_warmup"]),
        ({"reward_weights": [1.0]}, ["'reward_weights'", "`weight`"]),
        ({"resume_from_checkpoint": "x"}, ["'resume_from_checkpoint'", "resume: never"]),
        ({"dataset": "nowhere.jsonl"}, ["'dataset'", "'nowhere.jsonl' not found", "recipes/nowhere.jsonl"]),
        ({"deepspeed": "launch/nowhere.json"}, ["'deepspeed'", "'launch/nowhere.json' not found"]),
    ],
)
def test_a_wrong_recipe_is_refused_by_file_key_value_and_what_is_allowed(recipe_file, changes, parts):
    path = recipe_file(**changes)
    message = refusal([path])
    assert message.startswith(path)
    assert [part for part in parts if part not in message] == [], message


@pytest.mark.parametrize("mode", ["sequence_mask", "sequence_truncate"])
def test_sequence_level_correction_with_led_is_refused_with_the_reason(recipe_file, mode):
    message = refusal([recipe_file(decoding="led", vllm_importance_sampling_mode=mode)])
    for part in (mode, "'led'", "SUM", "vanishes", "token_truncate", "vllm_importance_sampling_correction: false"):
        assert part in message
    top_k = refusal([recipe_file(decoding="top_k_control", vllm_importance_sampling_mode=mode)])
    assert "'top_k_control'" in top_k
    # harmless without LED, or without a correction
    load_recipe([recipe_file(vllm_importance_sampling_mode=mode)])
    off = {"vllm_importance_sampling_mode": mode, "vllm_importance_sampling_correction": False}
    load_recipe([recipe_file(decoding="led", **off)])
    for token_mode in ("token_truncate", "token_mask"):
        load_recipe([recipe_file(decoding="led", vllm_importance_sampling_mode=token_mode)])


def test_led_needs_vllm(recipe_file):
    assert "use_vllm: true" in refusal([recipe_file(decoding="led", use_vllm=False)])
    assert not load_recipe([recipe_file(use_vllm=False)]).training.use_vllm


def test_rollouts_with_led_may_come_from_a_server(recipe_file):
    """Whether that server knows LED is asked when the trainer is built (tests/test_rollout_server.py)."""
    recipe = load_recipe([recipe_file(decoding="led", vllm_mode="server")])
    assert (recipe.training.decoding, recipe.training.vllm_mode) == ("led", "server")


def test_files_are_found_from_here_from_the_recipe_and_from_above(recipe_file, tmp_path):
    for folder in (tmp_path, tmp_path / "recipes"):
        path = recipe_file(dataset="rows.jsonl")
        (folder / "rows.jsonl").write_text("{}")
        recipe = load_recipe([path])
        assert (tmp_path / recipe.run.dataset).resolve() == (folder / "rows.jsonl").resolve()
        (folder / "rows.jsonl").unlink()


def test_every_shipped_recipe_holds_known_keys_only():
    others = {*ROOT.glob("recipes/evaluate_*.yaml"), *ROOT.glob("recipes/study_*.yaml")}
    for path in set(ROOT.glob("recipes/*.yaml")) - others:
        assert set(yaml.safe_load(path.read_text(encoding="utf-8"))) <= set(known_keys()), path


def test_help_names_every_key():
    text = help_text()
    for key, (config, _) in known_keys().items():
        assert f"  {key} (" in text, (key, config)


def test_led_s_keys_are_explained():
    for name, field in LEDGRPOConfig.__dataclass_fields__.items():
        if name.startswith("led_") or name == "decoding":
            assert field.metadata["help"]


def test_the_config_has_led_s_request_keys_with_their_defaults():
    """`DecodingParams` declares the keys; the config differs in `draw` alone, which follows the correction."""
    config = {item.name: item.default for item in dataclasses.fields(LEDGRPOConfig)}
    for item in dataclasses.fields(DecodingParams):
        if item.name == "decoding":
            assert config["decoding"] == item.default
        elif f"led_{item.name}" not in config:
            assert not any(PROPERTIES[name].has_log_probability for name in owners(item.name)), item.name
        elif item.name != "draw":
            assert config[f"led_{item.name}"] == item.default, item.name


def supports(tmp_path, **values):
    config = LEDGRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **({"use_vllm": True} | values))
    return config.train_support, config.needs_supports


def test_the_loss_is_normalised_over_what_was_sampled_unless_that_is_unknown(tmp_path, caplog):
    assert supports(tmp_path) == ("sampled", False)  # drawn from everything
    assert supports(tmp_path, top_k=20, top_p=0.95) == ("sampled", True)
    assert supports(tmp_path, decoding="led") == ("sampled", True)
    assert not [record for record in caplog.records if record.name.startswith("led_rl")]
    assert supports(tmp_path, top_p=0.95) == ("vocabulary", False)
    assert "does not know which tokens could be sampled" in caplog.records[-1].getMessage()
    assert supports(tmp_path, decoding="led", train_support="vocabulary") == ("vocabulary", False)
    assert "led/support_mass" in caplog.records[-1].getMessage()
    supports(tmp_path, decoding="led", vllm_importance_sampling_correction=False)
    assert "the reward fell to 0" in caplog.records[-1].getMessage()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train_support": "tokens"}, "must be one of sampled, vocabulary; got 'tokens'"),
        ({"train_support": "sampled", "top_p": 0.9}, "needs top_k > 0"),
        ({"train_support": "sampled", "use_vllm": False}, "needs use_vllm: true"),
        ({"decoding": "led", "min_p": 0.1}, "needs top_k > 0"),
        ({"decoding": "led", "loss_type": "vespo"}, "would stop training in silence"),
    ],
)
def test_supports_that_cannot_be_known_are_refused(tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        supports(tmp_path, **values)
