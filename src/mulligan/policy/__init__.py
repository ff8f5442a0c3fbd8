"""What decides about code before it runs and about what goes back after."""
