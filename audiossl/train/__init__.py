"""The loop, optimisers, checkpoints, logging, distributed set-up."""
