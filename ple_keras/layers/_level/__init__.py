"""The inside of a level: its wiring, its experts, its gates' statistics, and who observes it."""
