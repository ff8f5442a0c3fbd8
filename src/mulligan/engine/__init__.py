"""Executions, VMs and who they belong to: everything between a request and a driver."""
