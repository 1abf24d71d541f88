"""The network: a pretrained encoder, its pooling, and one head per task."""
