"""The adapters of VideoCore IV: firmware mailbox, VCSM and V3D registers of a Raspberry Pi 0 to 3."""
