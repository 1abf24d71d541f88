"""From a file to padded batches: reading, validation, labels, tokenization, and the interleaving of tasks."""
