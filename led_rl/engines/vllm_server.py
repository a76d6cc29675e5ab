"""vLLM's OpenAI-compatible server in this process, as `vllm serve` starts it, built with LED switched on."""

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from led_rl.engines.environment import has_gpu
from led_rl.engines.vllm_engine import CPU_ENGINE_ARGUMENTS, engine_environment
from led_rl.engines.vllm_plugin.plugin import tell_of_a_dead_engine
from led_rl.sampler.capture_options import MAX_K, EngineOptions

BODIES = "led_rl.engines.vllm_plugin.request_bodies.CheckBodies"
# vLLM on CPU ends on a seeded request whose prompt is prefilled in chunks: "CPU Generator does not use offset".
CPU_SERVER_ARGUMENTS = {"enable_chunked_prefill": False}


def serve(
    arguments: Sequence[str],
    depth: int,
    latent_layers: tuple[int, ...] | None,
    default: Mapping[str, Any],
    max_k: int = MAX_K,
    baselines: tuple[str, ...] = (),
) -> bool:
    """Serves until interrupted; returns False if the engine died.

    Args:
        arguments: those of `vllm serve`, the model first.
        depth: largest LED depth that requests may ask for.
        latent_layers: the latent layers to capture instead of the last `depth` - 1.
        default: `led*` keys of requests that carry none.
        max_k: the most candidates that requests may ask for.
        baselines: other decodings to admit (led_rl/sampler/capture_options.py).

    Raises:
        DecodingError: the model or vLLM's options rule out `depth`, `latent_layers` or `default`; before weights load.
    """
    # The entry point `vllm` itself asks for the metadata of a distribution named vllm, which the CPU build lacks.
    given = EngineOptions.from_environment()
    support, final_entropy = given.support, given.final_entropy  # for trainers: launch/serve_rollouts.sh
    captured = EngineOptions(depth, latent_layers, final_entropy, support, max_k, baselines=baselines)
    with engine_environment(captured, default):
        from vllm.entrypoints.cli.serve import ServeSubcommand
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # as vLLM's command line does
        command = ServeSubcommand()
        parser = FlexibleArgumentParser(prog="led-rl")
        options = command.subparser_init(parser.add_subparsers(dest="subparser"))
        options.usage = "led-rl serve [--led-...] MODEL [options of vllm serve]"
        defaults = {} if has_gpu() else {**CPU_ENGINE_ARGUMENTS, **CPU_SERVER_ARGUMENTS}
        # The endpoint that hands on supports is one of those that vLLM leaves out unless asked.
        options.set_defaults(
            logprobs_mode="processed_logprobs", middleware=[BODIES], enable_scale_out=support, **defaults
        )
        parsed = parser.parse_args(["serve", *arguments])
        command.validate(parsed)
        died = threading.Event()
        tell_of_a_dead_engine(died.set)
        command.cmd(parsed)
    return not died.is_set()
