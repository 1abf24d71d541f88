"""Serve a saved model over HTTP: a queue with dynamic batching, the endpoints, and a page to try the model in."""
