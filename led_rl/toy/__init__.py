"""The quickstart's task and its from-scratch reasoning model, small enough to train on one CPU core in minutes."""
