"""The time machine: states kept, gone back to and branched from, and what they cost on disk."""
