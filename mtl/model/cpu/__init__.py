"""The fast path of the encoder's layers on a CPU: packed rows, plain attention, oneDNN products."""
