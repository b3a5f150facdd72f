"""The command line: a face of operations.py, and the commands that start workers and projects."""
