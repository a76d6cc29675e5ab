"""Grades in processes that can be killed when an answer takes too long."""
