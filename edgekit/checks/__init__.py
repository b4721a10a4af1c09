"""Checks: what is measured of a file, and how it is judged."""
