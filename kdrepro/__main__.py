"""`python -m kdrepro` is `kdrepro`."""

from kdrepro.cli import main

main()
