"""Mini-batch optimizers that precondition the gradient of each weight matrix by rank-one-corrected inverse factors of its curvature."""
