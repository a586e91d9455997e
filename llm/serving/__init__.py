"""The server behind serve.py: batching of concurrent requests, OpenAI's API, the page."""
