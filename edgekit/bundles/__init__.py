"""What is shipped for a target, and the evidence of what other hosts measured."""
