"""The emulated Linux and firmware: device nodes, ioctls, files, clock and job queues."""
