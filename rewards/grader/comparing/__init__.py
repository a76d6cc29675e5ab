"""Compares two answers' syntax trees."""
