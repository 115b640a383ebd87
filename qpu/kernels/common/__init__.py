"""Parts that the families of the library share: arguments, launches, and bounds of rounding errors."""
