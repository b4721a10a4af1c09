"""The command line: parse, call, show.

One file a command; results go to stdout, everything else to stderr.
"""
