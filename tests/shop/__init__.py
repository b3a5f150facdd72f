"""The example shop: its audit, its demo and its chaos run."""
