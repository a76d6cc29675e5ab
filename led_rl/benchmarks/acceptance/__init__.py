"""`led-rl doctor --acceptance`: whether LED does on this machine what it should, and what it costs; needs no model."""
