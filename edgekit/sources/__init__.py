"""Where networks come from: a small zoo, and the user's own functions."""
