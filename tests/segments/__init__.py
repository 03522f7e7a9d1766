"""Real vector segments for tests: made by the engine, damaged on purpose, and opened again."""
