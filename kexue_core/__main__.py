"""``python -m kexue_core``: the command line, for where its script is not on the path."""

from kexue_core.commands import main

if __name__ == "__main__":
    main()
