"""A trained model at work: generating text, citing the book, measuring recall."""
