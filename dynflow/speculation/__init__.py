"""Speculative generation: drafts that a target model checks, and when they pay."""
