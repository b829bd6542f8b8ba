"""Metrics: pure functions of arrays, one file each."""
