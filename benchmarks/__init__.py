"""Measurements behind the numbers in the README: each module writes the JSON of the same name in ``results``."""
