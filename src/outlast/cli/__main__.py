"""`python -m outlast.cli`, which is how the command line starts itself in child processes."""

from outlast.cli.main import main

main()
