"""vLLM's OpenAI-compatible server in this process, as `vllm serve` starts it, built with LED switched on."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from led_rl.engines.environment import has_gpu
from led_rl.engines.vllm_engine import CPU_ENGINE_ARGUMENTS, engine_environment
from led_rl.sampler.capture_options import EngineOptions


def serve(
    arguments: Sequence[str], depth: int, latent_layers: tuple[int, ...] | None, default: Mapping[str, Any]
) -> None:
    """Serves until interrupted.

    Args:
        arguments: those of `vllm serve`, the model first.
        depth: largest LED depth that requests may ask for.
        latent_layers: the latent layers to capture instead of the last `depth` - 1.
        default: `led*` keys of requests that carry none.

    Raises:
        DecodingError: the model or vLLM's options rule out `depth`, `latent_layers` or `default`; before weights load.
    """
    # The entry point `vllm` itself asks for the metadata of a distribution named vllm, which the CPU build lacks.
    support = EngineOptions.from_environment().support  # for trainers: launch/serve_rollouts.sh
    with engine_environment(EngineOptions(depth, latent_layers, support=support), default):
        from vllm.entrypoints.cli.serve import ServeSubcommand
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # as vLLM's command line does
        command = ServeSubcommand()
        parser = FlexibleArgumentParser(prog="led-rl")
        options = command.subparser_init(parser.add_subparsers(dest="subparser"))
        options.usage = "led-rl serve [--led-...] MODEL [options of vllm serve]"
        options.set_defaults(logprobs_mode="processed_logprobs", **({} if has_gpu() else CPU_ENGINE_ARGUMENTS))
        parsed = parser.parse_args(["serve", *arguments])
        command.validate(parsed)
        command.cmd(parsed)
