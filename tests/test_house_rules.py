"""The house rules of the code base: which way imports run, where a module may lie, recipes that pair up."""

import ast
import json
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from subprocesses import clean_shell

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*ROOT.glob("led_rl/**/*.py"), *ROOT.glob("rewards/**/*.py")])
# From the ground up: a package imports from its own floor (its own package there) and from the floors below.
FLOORS = (
    {"led", "decoding", "thinking", "data"},
    {"sampler"},
    {"engines"},
    {"training", "evaluation"},
    {"reporting"},
    {"benchmarks"},
    {"commands"},
    {"train", "cli"},
    {"toy"},
)
METHOD = ("led_rl.led", "led_rl.decoding", "led_rl.thinking")
KNOW_VLLM = (
    "led_rl.engines.vllm_plugin.",
    "led_rl.engines.vllm_engine",
    "led_rl.engines.vllm_server",
    "led_rl.engines.timed_blocks",
    "led_rl.engines.self_check",
    "led_rl.training.rollout",
)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path) for path in SOURCES}


def imports(path: Path) -> set[str]:
    """Dotted names of the modules that a file imports, also inside its functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide which way they run"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                names.add(full if full in MODULES else str(node.module))
    return names


IMPORTS = {module_name(path): imports(path) - {module_name(path)} for path in SOURCES}


def own(module: str) -> set[str]:
    """The modules of this code base that a module imports."""
    return IMPORTS[module] & MODULES


def foreign(module: str) -> set[str]:
    """The distributions' packages that a module imports."""
    return {name.partition(".")[0] for name in IMPORTS[module]} - set(sys.stdlib_module_names) - {"led_rl", "rewards"}


def users_of(package: str) -> set[str]:
    return {
        module
        for module, names in IMPORTS.items()
        if any(name == package or name.startswith(package + ".") for name in names)
    }


def room(module: str) -> str:
    """The package, or the module, directly under led_rl/ to which a module belongs."""
    return module.split(".")[1]


def floor(module: str) -> int:
    """Counted from the ground; an error names a room that has no floor yet."""
    found = [number for number, rooms in enumerate(FLOORS) if room(module) in rooms]
    assert found, f"{module}: name its floor in FLOORS"
    return found[0]


def modules_loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT, env=clean_shell()
    )
    return set(json.loads(output.stdout))


@pytest.mark.parametrize(
    ("statement", "stays_out"),
    [
        ("import led_rl; dir(led_rl)", {"torch", "numpy", "transformers", "trl", "vllm"}),
        (f"import {', '.join(METHOD)}", {"transformers", "trl", "vllm", "datasets", "accelerate"}),
        ("from led_rl import led_distribution, DecodingParams", {"transformers", "trl", "vllm"}),
        ("import led_rl.cli", {"torch", "numpy", "transformers", "trl", "vllm"}),
        ("import rewards", {"torch", "transformers", "trl", "vllm", "sympy", "math_verify"}),
    ],
)
def test_light_imports_stay_light(statement, stays_out):
    assert not modules_loaded_by(statement) & stays_out


def test_imports_run_down():
    wrong = []
    for module in sorted(MODULES):
        for name in sorted(own(module)):
            if "." not in module or not module.startswith("led_rl.") or not name.startswith("led_rl."):
                continue
            mine, other = floor(module), floor(name)
            if other > mine or (other == mine > 0 and room(module) != room(name)):
                wrong.append(f"{module} imports {name}")
    assert wrong == []


def test_no_import_runs_in_a_circle():
    """Depth first: an import of a module whose own imports are still being followed closes a circle."""
    circles, finished = [], set()

    def follow(path: list[str]) -> None:
        for name in sorted(own(path[-1]) - finished):
            if name in path:
                circles.append(" -> ".join([*path[path.index(name) :], name]))
            else:
                follow([*path, name])
        finished.add(path[-1])

    for module in sorted(MODULES):
        if module not in finished:
            follow([module])
    assert circles == []


@pytest.mark.parametrize("module", METHOD)
def test_the_method_knows_torch_numpy_and_itself(module):
    assert own(module) <= set(METHOD)
    assert foreign(module) <= {"torch", "numpy"}


def test_the_sampler_knows_no_engine():
    for module in MODULES:
        if module.startswith("led_rl.sampler"):
            assert foreign(module) <= {"torch", "numpy", "triton", "numba", "llvmlite"}, module


def test_few_modules_know_vllm():
    assert [module for module in sorted(users_of("vllm")) if not module.startswith(KNOW_VLLM)] == []
    assert users_of("trl.generation") <= {"led_rl.training.rollout"}


def test_rewards_stand_alone():
    assert not {module for module in users_of("led_rl") if module.partition(".")[0] == "rewards"}


def test_nothing_imports_the_toy_or_the_entry_points():
    for package in ("led_rl.toy", "led_rl.train", "led_rl.cli"):
        assert {module for module in users_of(package) if not module.startswith("led_rl.toy")} == set()


def test_seven_modules_at_most_lie_beside_the_packages():
    assert len(list((ROOT / "led_rl").glob("*.py"))) <= 7


def test_no_module_shadows_another():
    """`accelerate launch led_rl/train.py` puts `led_rl/` itself first on `sys.path`."""
    taken = set(sys.stdlib_module_names) | {
        name for name, owners in packages_distributions().items() if set(owners) != {"led-rl"}
    }
    assert {"logging", "torch", "trl", "yaml"} <= taken
    for folder in (ROOT / "led_rl", ROOT / "rewards"):
        names = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/*.py")}
        assert names & taken == set()


def test_the_tests_lie_where_their_packages_do():
    for path in (ROOT / "tests").rglob("test_*.py"):
        place = path.parent.relative_to(ROOT / "tests")
        package = ROOT / place if place.parts[:1] == ("rewards",) else ROOT / "led_rl" / place
        assert package.is_dir(), f"{path}: there is no {package.relative_to(ROOT)}"


def test_names_of_the_public_face_exist():
    import led_rl

    for name in led_rl.__all__:
        assert getattr(led_rl, name).__name__ == name
    with pytest.raises(AttributeError, match="LEDTrainer"):
        led_rl.LEDTrainer  # noqa: B018


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
