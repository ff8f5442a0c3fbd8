"""One VM: its record, its disk, its machine while there is one, and the stream to its agent."""
