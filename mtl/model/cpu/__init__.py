"""The fast path of the encoder's layers on a CPU: packed rows, fused attention, oneDNN products."""
