"""LED in vLLM: a plugin of the group `vllm.general_plugins`, without a change to vLLM's files."""

from led_rl.engines.vllm_plugin.plugin import register as register  # the entry point that installations name
