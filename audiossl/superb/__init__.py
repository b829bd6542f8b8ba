"""Scores of frozen encoders by the protocol of SUPERB: one pass of the encoder, many heads."""
