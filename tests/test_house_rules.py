"""The house rules of the code base: which way imports run, no module that shadows another, recipes that pair up."""

import ast
import json
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*ROOT.glob("led_rl/**/*.py"), *ROOT.glob("rewards/**/*.py")])
METHOD = {"led_rl.led", "led_rl.decoding", "led_rl.thinking"} | {
    ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ROOT.glob("led_rl/methods/[a-z]*.py")
}
# The floors of led_rl, from the ground up: imports run down or stay on a floor, and the two middle rooms are apart.
FLOORS = (
    ("led", "decoding", "methods", "thinking", "terminal"),
    ("sampler",),
    ("engines",),
    ("data", "recipe", "training", "evaluation"),
    ("reporting",),
    ("benchmarks", "study"),
    ("commands",),
    ("train", "cli", "toy"),
)
APART = ({"training", "evaluation"},)


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
        ("import led_rl; dir(led_rl)", {"torch", "transformers", "trl", "vllm"}),
        ("import led_rl.cli", {"torch", "transformers", "trl", "vllm"}),
        ("from led_rl import DecodingParams, led_distribution", {"transformers", "trl", "vllm"}),
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


def room(module: str) -> str:
    """The package or module directly in led_rl that a module belongs to."""
    return module.split(".")[1]


def floor(module: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if room(module) in rooms)


INSIDE = sorted(module for module in IMPORTS if module.startswith("led_rl."))


@pytest.mark.parametrize("module", INSIDE)
def test_imports_run_down(module):
    used = {name for name in own(IMPORTS[module]) if name.startswith("led_rl.")}
    assert {name for name in used if floor(name) > floor(module)} == set()
    for pair in APART:
        if room(module) in pair:
            assert {room(name) for name in used} & pair <= {room(module)}


def test_there_is_no_import_circle():
    graph = {module: own(names) - {module} for module, names in IMPORTS.items()}
    TopologicalSorter(graph).prepare()  # CycleError names the modules


ENGINES = sorted(module for module in INSIDE if room(module) in ("engines", "sampler"))
ENGINE_LIBRARIES = {
    "torch",
    "numpy",
    "triton",
    "vllm",
    "transformers",
    "prometheus_client",
    "numba",
    "llvmlite",
    "deepspeed",
}


@pytest.mark.parametrize("module", ENGINES)
def test_an_engine_knows_one_engine_library(module):
    assert foreign(IMPORTS[module]) <= ENGINE_LIBRARIES
    assert len(foreign(IMPORTS[module]) & {"vllm", "transformers"}) <= 1


def test_the_sampler_knows_no_engine():
    assert {module for module in users_of("vllm") | users_of("transformers") if room(module) == "sampler"} == set()


ADAPTERS = {
    f"led_rl.engines.{name}" for name in ("agreement", "vllm_engine", "vllm_server", "timed_blocks", "self_check")
}


def test_only_the_plugin_its_adapters_and_the_rollout_know_vllm():
    plugin = {module for module in ENGINES if module.startswith("led_rl.engines.vllm_plugin")}
    rollout = {f"led_rl.training.{name}" for name in ("rollout", "rollout_client", "served_rollout")}
    assert users_of("vllm") <= plugin | ADAPTERS | rollout
    assert users_of("trl.generation") <= rollout


def test_every_patch_of_vllm_is_in_one_module():
    """Only plugin.py assigns to what it imports from vLLM."""
    for path in SOURCES:
        if "vllm_plugin" not in path.parts or path.name == "plugin.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        foreign_names = {
            alias.asname or alias.name.partition(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
            if (node.module if isinstance(node, ast.ImportFrom) else alias.name).startswith("vllm")
        }
        assigned = {
            target.value.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name)
        }
        assert not assigned & foreign_names, path


def test_drawing_on_a_gpu_imports_no_numba():
    statement = "import led_rl.sampler.request_decoder, led_rl.sampler.on_gpu.draw, led_rl.training.config"
    assert not modules_loaded_by(statement) & {"numba", "llvmlite"}


def test_at_most_seven_modules_lie_directly_in_led_rl():
    assert len([path for path in (ROOT / "led_rl").glob("*.py") if path.stem != "__init__"]) <= 7


def test_tests_mirror_the_packages():
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    homes = {path.parent.relative_to(ROOT / "led_rl") for path in (ROOT / "led_rl").rglob("*.py")}
    homes |= {path.parent.relative_to(ROOT) for path in (ROOT / "rewards").rglob("*.py")}
    assert folders <= homes


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
    own_names = {path.stem for folder in ("led_rl", "rewards") for path in (ROOT / folder).iterdir()}
    assert {"training", "sampler", "grader"} <= own_names
    assert own_names & taken == set()


def test_the_public_face_is_lazy():
    import led_rl

    for name in ("LEDGRPOTrainer", "LEDGRPOConfig", "DecodingParams", "led_distribution"):
        assert getattr(led_rl, name).__name__ == name
        assert name in dir(led_rl)
    with pytest.raises(AttributeError, match="public names: DecodingParams"):
        _ = led_rl.LEDTrainer


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
        "led_depth": 8,
        "led_k": 8,
    }
    settings = recipe("grpo_led")
    assert {key: settings[key] for key in paper} == paper
    # Where the recipes depart from the paper, docs/training.md says why.
    departures = {"train_support": "sampled", "vllm_importance_sampling_correction": True}
    assert {key: settings[key] for key in departures} == departures
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
