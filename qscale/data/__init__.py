"""Corpora, tokenizers and the order of batches."""
