"""Models on disk: checkpoints, Hugging Face's layout, GGUF."""
