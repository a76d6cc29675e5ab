"""Studies: a recipe says what to train, how to decode, and which claims to test; one command runs what is missing."""

KINDS = ("warm-up", "train", "evaluate", "analyse")  # of jobs
