"""`python -m tinyrnn`: the same as the command `tinyrnn`."""

from tinyrnn.cli import main

if __name__ == "__main__":
    main()
