"""The engines of VideoCore IV."""
