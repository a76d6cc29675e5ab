"""The commands of `led-rl`, one module each."""
