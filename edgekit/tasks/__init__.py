"""Built-in data sets, and the loaders for a user's own data."""
