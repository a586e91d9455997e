"""From a text to token ids on disk: read, clean, tokenize, write shards."""
