"""`python -m compressor`: the command where its script is not on the path."""

from compressor.cli import main

if __name__ == "__main__":
    main()
