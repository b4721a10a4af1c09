"""Steps: each makes a new artifact from an old one. The file names say from what to what."""
