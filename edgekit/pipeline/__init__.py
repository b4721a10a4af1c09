"""Carries a plan out: build, verify, time, choose, ship."""
