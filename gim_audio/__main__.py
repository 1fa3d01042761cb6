"""`python -m gim_audio` is `gim-audio`."""

from gim_audio.cli import main

main()
