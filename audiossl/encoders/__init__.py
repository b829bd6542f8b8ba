"""Encoders: waveform to frames, one file per architecture."""
