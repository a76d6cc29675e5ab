"""The draw of a step on a CPU."""
