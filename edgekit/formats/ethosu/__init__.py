"""TFLite files for Arm's Ethos-U, compiled with Vela."""
