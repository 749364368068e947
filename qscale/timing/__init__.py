"""Timings of the ops against a copy of the same bytes and against the peers that are installed."""
