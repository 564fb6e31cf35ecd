"""Models of the inverse Hessian, corrected once per step."""
