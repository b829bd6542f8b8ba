"""Tasks: a head with its loss and its metric, one file each."""
