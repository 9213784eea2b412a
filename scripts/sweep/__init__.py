"""Sweeps: many trainings from one file."""
