"""Parts of the engines that do not depend on an instruction set: memory, lanes, native code, cache, trace."""
