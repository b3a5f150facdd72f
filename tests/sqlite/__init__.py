"""What only the SQLite engine has: processes that find each other dead."""
