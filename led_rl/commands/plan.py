"""`led-rl plan RECIPE.yaml`: memory of a GPU and the step's time before anything is bought, and what to change."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache

from led_rl.commands.arguments import Parser, count, number
from led_rl.decoding import UserError

DESCRIPTION = """\
Memory of each GPU by part, while training and while rolling out, and the time of a step by stage, for RECIPE.yaml on
--gpus GPUs. Parameters and activations are counted by running the model's code without memory; times are a roofline
with stated assumptions. Where it does not fit: which keys to change, and exit status 1. No weights are loaded.
"""


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns 1 if the recipe does not fit.

    Raises:
        UserError: a key of the recipe or an option is wrong, or the model's configuration cannot be read.
    """
    parser = Parser("led-rl plan", usage="led-rl plan RECIPE.yaml [--key value ...] [options]", description=DESCRIPTION)
    add = parser.add_argument
    add("--gpus", type=count, default=8, help="that train, in all (%(default)s)")
    add("--gpu-memory", type=number, default=80, metavar="GIB", help="of each GPU (%(default)s)")
    add("--hardware", default="h100", help="whose datasheet gives the times: h200, h100, a100 (%(default)s)")
    add("--prompt-tokens", type=count, help="of a prompt (512, or what vllm_max_model_length leaves)")
    add("--json", action="store_true", help="print one JSON object")
    options, rest = parser.parse_known_args(list(arguments))
    from transformers import AutoConfig

    from led_rl.benchmarks.cost_model import HARDWARE
    from led_rl.benchmarks.plan import ASSUMED, GIB, ON_ANY_MACHINE, Setup, page, setup_of, sizes_of
    from led_rl.benchmarks.plan_advice import advise
    from led_rl.benchmarks.sizes import Sizes
    from led_rl.training.recipe import load_recipe

    if options.hardware not in HARDWARE:
        raise UserError(f"argument --hardware: expected one of {', '.join(HARDWARE)}; got {options.hardware!r}")
    if options.gpu_memory <= 0:
        raise UserError(f"argument --gpu-memory: expected GiB above 0; got {options.gpu_memory}")
    recipe = load_recipe(rest, ON_ANY_MACHINE)
    name = str(recipe.model.model_name_or_path)
    try:
        config = AutoConfig.from_pretrained(name, revision=recipe.model.model_revision)
    except (OSError, ValueError) as error:
        raise UserError(f"{recipe.path}: model_name_or_path: {name}: {error}") from error
    setup = setup_of(recipe, options.gpus, int(options.gpu_memory * GIB), options.prompt_tokens)

    @cache
    def size(setup: Setup) -> Sizes:
        return sizes_of(recipe, config, setup)

    found = advise(setup, size, config, HARDWARE[options.hardware])
    if options.json:
        about = {"fits": found.fits, "sizes": asdict(size(setup)), "assumed": ASSUMED}
        print(json.dumps(asdict(found) | about, indent=1))
    else:
        print(page(found, size(setup), setup, options.hardware))
    return 0 if found.fits else 1
