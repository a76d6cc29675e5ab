"""Reads an answer's notation into a syntax tree."""
