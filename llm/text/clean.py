"""The functions that clean a text, under one name: see gutenberg.py, scan.py and unwrap.py."""

from llm.text.gutenberg import strip_gutenberg
from llm.text.scan import clean_scan
from llm.text.unwrap import unwrap

__all__ = ["clean_scan", "strip_gutenberg", "unwrap"]
