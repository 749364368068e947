"""The CUDA library without a GPU: how it is built, its PTX, and what a thread of a launch executes."""
