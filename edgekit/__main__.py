"""``python -m edgekit``."""

from edgekit.cli.main import main

main(prog_name="edgekit")
