"""Studies: the grid, its jobs, the run store, and the processes that work it off."""
