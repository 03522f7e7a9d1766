"""ChromaDB as a production service: the daemon `chromad` and the command line `chromactl`."""
