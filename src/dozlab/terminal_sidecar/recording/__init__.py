"""Recordings of the shells: asciicast, files and their limits, routes."""
