"""Finding code in what a model answers."""
