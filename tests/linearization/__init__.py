"""Tests of the linear models of the residuals."""
