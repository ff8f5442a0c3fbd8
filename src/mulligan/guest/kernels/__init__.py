"""Kernels: programs that live on between executions and keep their state."""
