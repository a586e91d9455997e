"""How much of a text does a model know by heart? For our models and for any causal one in Hugging Face's layout."""
