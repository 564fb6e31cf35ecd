"""Trust-region subproblems: pure functions of gradient, curvature and radius."""
