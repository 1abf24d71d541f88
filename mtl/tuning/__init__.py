"""Search for good settings: spaces, trials on Optuna, and what they found."""
