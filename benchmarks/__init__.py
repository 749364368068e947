"""Timings of the ops against the least work that any implementation must do."""
