"""File formats: a folder for each, with what writes, reads, quantizes and audits its files."""
