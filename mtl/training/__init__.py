"""Training: what is frozen, at which rates the rest learns, losses, and the LightningModule."""
