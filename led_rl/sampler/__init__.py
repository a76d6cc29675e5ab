"""Draws LED's tokens for a batch of requests; knows no engine."""
