"""The engines of V3D 4.2 and 7.1."""
