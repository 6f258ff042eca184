"""``python -m zoopt.cli``: the same as the ``zoopt`` script."""

from zoopt.cli import main

if __name__ == "__main__":
    main()
