"""The program of :mod:`cheap_sweep`; trials import it too, so it imports nothing by itself."""

if __name__ == "__main__":
    from cheap_sweep import main

    main()
