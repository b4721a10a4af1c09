"""The command line: parse, call, show.

One module per command; results go to stdout, everything else to stderr.
"""
