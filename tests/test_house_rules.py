"""The house rules of the code base: which way imports run, no module that shadows another, recipes that pair up."""

import ast
import json
import os
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*ROOT.glob("led_rl/**/*.py"), *ROOT.glob("rewards/**/*.py")])
METHOD = {"led_rl.led", "led_rl.decoding", "led_rl.thinking", "led_rl.engines.engine", "led_rl.evaluation.estimates"}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Dotted names of the modules that a file imports, in functions too; for `from a import b` both `a` and `a.b`."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide which way they run"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


IMPORTS = {module_name(path): imports(path) for path in SOURCES}


def top_level(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def own(names: set[str]) -> set[str]:
    """The modules of this code base among imported names."""
    return names & set(IMPORTS)


def foreign(names: set[str]) -> set[str]:
    return top_level(names) - set(sys.stdlib_module_names) - {"led_rl", "rewards"}


def users_of(package: str) -> set[str]:
    return {
        module
        for module, names in IMPORTS.items()
        if any(name == package or name.startswith(package + ".") for name in names)
    }


def modules_loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT, env=environment
    )
    return set(json.loads(output.stdout))


@pytest.mark.parametrize(
    ("statement", "stays_out"),
    [
        ("import led_rl", {"torch", "transformers", "trl", "vllm"}),
        (f"import {', '.join(sorted(METHOD))}", {"transformers", "trl", "vllm", "datasets", "accelerate"}),
        ("import rewards", {"torch", "transformers", "trl", "vllm", "sympy", "math_verify"}),
    ],
)
def test_light_imports_stay_light(statement, stays_out):
    assert not modules_loaded_by(statement) & stays_out


@pytest.mark.parametrize("module", sorted(METHOD))
def test_the_method_knows_torch_numpy_and_itself(module):
    assert own(IMPORTS[module]) <= METHOD
    assert foreign(IMPORTS[module]) <= {"torch", "numpy"}


ENGINES = sorted(module for module in IMPORTS if module.startswith("led_rl.engines."))


@pytest.mark.parametrize("module", ENGINES)
def test_an_engine_knows_the_method_and_one_engine_library(module):
    used = own(IMPORTS[module])
    assert {name for name in used if not name.startswith("led_rl.engines")} <= METHOD
    assert len(foreign(IMPORTS[module]) & {"vllm", "transformers"}) <= 1
    assert foreign(IMPORTS[module]) <= {
        "torch",
        "numpy",
        "triton",
        "vllm",
        "transformers",
        "prometheus_client",
        "numba",
        "llvmlite",
    }


def test_only_the_engines_and_the_rollout_know_vllm():
    assert users_of("vllm") <= {*ENGINES, "led_rl.training.rollout"}
    assert users_of("trl.generation") <= {"led_rl.training.rollout"}


def test_rewards_stand_alone():
    rewards = {module for module in IMPORTS if module.partition(".")[0] == "rewards"}
    assert not users_of("led_rl") & rewards


def test_nothing_imports_the_toy_but_the_toy():
    assert {module for module in users_of("led_rl.toy") if not module.startswith("led_rl.toy")} == set()


def test_nothing_imports_the_entry_points():
    entries = {"led_rl.train", "led_rl.cli"}
    others = {module for entry in entries for module in users_of(entry)} - entries
    assert {module for module in others if not module.startswith("led_rl.toy")} == set()


def test_no_module_shadows_another():
    """`accelerate launch led_rl/train.py` puts `led_rl/` itself first on `sys.path`."""
    taken = set(sys.stdlib_module_names) | {
        name for name, owners in packages_distributions().items() if set(owners) != {"led-rl"}
    }
    assert {"logging", "torch", "trl", "yaml"} <= taken
    own_names = {path.stem if path.stem != "__init__" else path.parent.name for path in SOURCES}
    assert own_names & taken == set()


def recipe(name: str) -> dict:
    return yaml.safe_load((ROOT / "recipes" / f"{name}.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("pair", ["quickstart", "grpo"])
def test_the_recipes_of_a_pair_differ_in_one_key(pair):
    led, standard = recipe(f"{pair}_led"), recipe(f"{pair}_standard")
    assert {key for key in {*led, *standard} if led.get(key) != standard.get(key)} == {"decoding"}
    assert (led["decoding"], standard["decoding"]) == ("led", "standard")


def test_the_grpo_recipes_are_the_paper_s_run():
    paper = {
        "model_name_or_path": "Qwen/Qwen3-4B-Thinking-2507",
        "temperature": 0.6,
        "top_p": 0.95,  # after thinking
        "top_k": 20,
        "num_generations": 8,
        "max_completion_length": 16384,
        "learning_rate": 1e-6,
        "beta": 0.0,  # no KL
        "max_steps": 91,
        "vllm_importance_sampling_correction": False,
        "led_depth": 8,
        "led_k": 8,
    }
    settings = recipe("grpo_led")
    assert {key: settings[key] for key in paper} == paper
    assert "MATH" in settings["dataset"]
    gpus, prompts = 8, 8
    rollouts = gpus * settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"]
    assert rollouts == prompts * settings["num_generations"]
    assert settings["vllm_max_model_length"] > settings["max_completion_length"]
    for key in ("led_latent_layers", "led_latent_norm", "led_exploit", "led_think_only", "entropy_coef"):
        assert key not in settings  # the paper's defaults


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_settings_leave_sizes_to_the_recipe(stage):
    settings = json.loads((ROOT / "launch" / f"zero{stage}.json").read_text(encoding="utf-8"))
    assert settings["zero_optimization"]["stage"] == stage
    for key in ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"):
        assert settings[key] == "auto"


def test_the_grpo_recipes_carry_their_deepspeed_setting():
    assert (ROOT / recipe("grpo_led")["deepspeed"]).is_file()
