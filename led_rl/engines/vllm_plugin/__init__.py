"""LED in vLLM: a plugin of the group `vllm.general_plugins` (plugin.py), without a change to vLLM's files."""
