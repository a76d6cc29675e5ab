"""LED in vLLM, as a plugin of its own kind `vllm.general_plugins`; vLLM calls `register` in every process."""

from led_rl.engines.vllm_plugin.plugin import register as register
