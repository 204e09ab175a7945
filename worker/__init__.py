"""Runs jobs and serves adapters."""
