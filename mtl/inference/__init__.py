"""Use a trained model: encode and predict, from Python and for whole files."""
