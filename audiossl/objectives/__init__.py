"""Objectives: how an encoder is pretrained, one file per method."""
