"""Fair races between optimizers: same start, same closure, same budget, same clock."""
