"""Runs of pages have no Python face."""
