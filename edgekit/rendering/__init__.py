"""Draw a report: as a table for a terminal, as Markdown, as one HTML page.

Nothing is measured or judged here.
"""
