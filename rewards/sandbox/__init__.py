"""Runs programs that nobody has read: no network, no files, and limits on time, memory, processes and output."""
