"""Data directories, audio, batches, shards and augmentation."""
