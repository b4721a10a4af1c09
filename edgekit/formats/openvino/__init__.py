"""OpenVINO's own format (.xml with its weights in .bin), for Intel and other x86 processors."""
