"""The linear least-squares problem of one damped step, by several solvers."""
