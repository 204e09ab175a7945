"""The dashboard: pages for people who write no code, over the public REST API and nothing else of ours."""
