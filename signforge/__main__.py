"""``python -m signforge``."""

from signforge.cli import main

if __name__ == "__main__":
    main()
