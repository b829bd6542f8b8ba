"""`python -m audiossl`, which is what torchrun starts."""

from audiossl.cli.main import main

if __name__ == "__main__":
    main()
