"""`qpu emulate`: programs that make their own system calls run on an emulated board."""
