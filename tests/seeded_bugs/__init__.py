"""Does the simulation find bugs? Known ones are planted in a copy of the library, one at a time, to see."""
