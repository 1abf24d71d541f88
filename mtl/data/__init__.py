"""From a file to padded batches: reading, checks, labels, tokenization, and the interleaving of tasks."""
