"""The library of kernels, for programs that call them on buffers of a device."""
