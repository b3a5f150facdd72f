"""What users would pick instead, running the same order workflow in the same topology."""
