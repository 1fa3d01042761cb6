"""Corpora to data directories: LibriSpeech, and a spoken one that is made on the spot."""
