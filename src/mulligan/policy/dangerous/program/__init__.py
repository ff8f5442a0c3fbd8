"""Reads programs: a small form common to Python, JavaScript and Rust, and what it would do."""
