"""Faults on purpose: kills, full disks, hostile input, unreliable storage."""
