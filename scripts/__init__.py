"""Programs for people who work on edgekit; they are not part of the package."""
