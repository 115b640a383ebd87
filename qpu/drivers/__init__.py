"""Adapters of real GPUs: board detection, the choice of an adapter, and the `Port` through which they call Linux."""
