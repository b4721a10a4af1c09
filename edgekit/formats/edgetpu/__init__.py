"""TFLite files for Coral's Edge TPU: rewriting, mapping and the compiler."""
