"""Compare runs: scenarios with their seeds, differences beyond noise, and a recommendation."""
