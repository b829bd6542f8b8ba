"""Adapters: what is inserted into a frozen encoder, one file each."""
