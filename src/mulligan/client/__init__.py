"""How programs use Mulligan: over HTTP, or with the engine in their own process."""
