"""Dozlab: a real Linux machine per learner. The rooms and their import order are described in ARCHITECTURE.md."""

__version__ = "0.1.0"
