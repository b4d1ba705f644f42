"""``python -m proxy`` is the command ``hotplate``."""

from proxy.cli import main

main()
