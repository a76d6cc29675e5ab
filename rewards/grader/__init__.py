"""Decides whether two mathematical answers are equal."""
