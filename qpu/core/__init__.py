"""What all instruction sets have in common: table rows, builders, hazard rules, lanes, source locations."""
