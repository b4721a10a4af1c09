"""From a recipe and its targets to a plan: pure data, no framework is imported."""
