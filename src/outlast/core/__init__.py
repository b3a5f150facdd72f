"""Decisions as values: no await, no clock, no dice, no log. Same arguments, same result."""
