"""The draw of a step on a GPU."""
