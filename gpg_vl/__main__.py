"""`python -m gpg_vl` is `gpg-vl`."""

from gpg_vl.cli import main

main()
