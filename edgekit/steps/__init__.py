"""Steps on PyTorch networks: each builds a new artifact from another one."""
