"""From a checked configuration to a trained network and its run folder; studies."""
