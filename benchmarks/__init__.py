"""Benchmarks: plain scripts that print one table each; see README.md in this folder."""
