"""The DRM adapter (driver v3d) of Raspberry Pi 4 and 5."""
