"""Teach a small GPT one book by heart, then read it back. The scripts are train.py, sample.py, recall.py, plot.py."""
