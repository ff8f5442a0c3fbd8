"""Sets of packages: found, or built once in a VM of their own."""
