"""Where networks come from: the zoo of edgekit, and a user's own code."""
