"""The gateway before the engine: who may come in, how it hears of a change, and what it asks the daemon."""
