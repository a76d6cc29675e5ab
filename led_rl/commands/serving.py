"""`led-rl serve MODEL ...`: vLLM's OpenAI-compatible server, with LED switched on.

LED has the options below; everything else on the command line goes to vLLM's own parser.
"""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from led_rl.commands.arguments import Parser, count
from led_rl.decoding import PREFIX, DecodingError, DecodingParams, UserError
from led_rl.sampler.capture_options import MAX_K

PROGRAM = "led-rl serve"
DEPTH = 8
# The engine learns these options from the environment, and names its variables in errors.
OPTIONS = {
    "LED_RL_DEPTH": "--led-depth",
    "LED_RL_LATENT_LAYERS": "--led-layers",
    "LED_RL_DEFAULT": "--led-default",
    "LED_RL_MAX_K": "--led-max-k",
    "LED_RL_BASELINES": "--led-baselines",
}
HELP = """\
usage: led-rl serve [--led-depth N] [--led-layers L,L,...] [--led-max-k K] [--led-default KEY=VALUE,...]
                    [--led-baselines NAME,NAME,...] MODEL [options of vllm serve]

  --led-depth N                the largest LED depth that requests may ask for, and get if they name none (default 8)
  --led-layers L,L,...         capture these latent layers instead of the last N-1
  --led-default KEY=VALUE,...  decoding of requests that carry no led key of their own, e.g. led=1,led_k=8; may be
                               repeated. A request opts out with led: 0.
  --led-max-k K                the most candidates (led_k) that requests may ask for (default 128)
  --led-baselines NAME,...     admit other decodings: dola_low, dola_high, dola=L+L+..., near_final, near_final=M,
                               soft_thinking, soft_thinking_gumbel, latent_noise (docs/decodings.md)

A request chooses its decoding by flat keys in `vllm_xargs`: led, led_depth, led_k, ... (docs/serving.md).
Defaults that differ from those of vLLM: --logprobs-mode processed_logprobs; on a CPU --dtype float32
--enforce-eager --no-enable-chunked-prefill.
vLLM's options follow; --help=all lists every one.
"""


def main(arguments: Sequence[str]) -> int:
    """Serves until interrupted; returns the exit status, 1 if the engine died.

    Raises:
        UserError: options that cannot work; names them.
    """
    led, vllm_arguments = parse(arguments)
    if any(re.match(r"-h$|--help(=|$)", argument) for argument in vllm_arguments):
        print(HELP)
    from led_rl.engines.environment import prepare_environment

    prepare_environment(VLLM_LOGGING_LEVEL="INFO")  # before torch and vLLM are imported
    from led_rl.engines.vllm_server import serve

    try:
        served = serve(vllm_arguments, led.led_depth, led.led_layers, led.led_default, led.led_max_k, led.led_baselines)
    except DecodingError as error:
        message = str(error)
        for variable, option in OPTIONS.items():
            message = message.replace(variable, option)
        raise UserError(message) from error
    return 0 if served else 1


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of LED, checked, and the arguments that are left for vLLM, in their order."""
    parser = Parser(PROGRAM, usage=argparse.SUPPRESS, add_help=False)
    parser.add_argument("--led-depth", type=count, default=DEPTH)
    parser.add_argument("--led-layers", type=_layers)
    parser.add_argument("--led-max-k", type=count, default=MAX_K)
    parser.add_argument("--led-baselines", type=lambda text: tuple(text.split(",")), default=())
    parser.add_argument("--led-default", type=_pairs, action="append", default=[])
    led, rest = parser.parse_known_args(arguments)
    led.led_default = {key: value for pairs in led.led_default for key, value in pairs.items()}
    try:
        check_default(led.led_default)
    except DecodingError as error:
        parser.error(f"argument --led-default: {error}")
    return led, rest


def check_default(default: Mapping[str, Any]) -> DecodingParams:
    """The decoding that these request keys name.

    Raises:
        DecodingError: names the key at fault and what is allowed.
    """
    known = [PREFIX, *(f"{PREFIX}_{field.name}" for field in fields(DecodingParams))]
    if unknown := [key for key in default if key not in known]:
        raise DecodingError(f"unknown request key {unknown[0]!r}; allowed: {', '.join(known)}")
    return DecodingParams.from_extra_args(default)


def _pairs(text: str) -> dict[str, Any]:
    """`led=1,led_latent_layers=[11,9]` -> {"led": 1, "led_latent_layers": [11, 9]}; what is not JSON is text."""
    pairs = {}
    for pair in re.split(r",(?=[^,\[\]]*=)", text):  # not at the commas of a list
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not (key and equals and value):
            raise argparse.ArgumentTypeError(f"expected KEY=VALUE[,KEY=VALUE...], got {text!r}")
        try:
            pairs[key] = json.loads(value)
        except ValueError:
            pairs[key] = value
    return pairs


def _layers(text: str) -> tuple[int, ...]:
    try:
        layers = tuple(int(layer) for layer in text.split(","))
    except ValueError:
        layers = ()
    if not layers or min(layers) < 0:
        raise argparse.ArgumentTypeError(f"expected latent layers, as in 11,9,6; got {text!r}")
    return layers
