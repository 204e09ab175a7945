"""Whose things are whose: projects, keys and sessions, quotas and rates, and what keeps tenants apart."""
