"""The path from a launch to the driver: memory pool, uniforms, jobs and fences."""
