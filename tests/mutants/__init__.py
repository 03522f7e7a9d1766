"""Planted bugs: `bugs.toml` lists plausible mistakes, and the tests that fail with each. python -m tests.mutants plants one after
the other in copies of the tree, never in the tree itself, and tells which of them no test sees.

To add one: `find` stands exactly once in `file`, `put` takes its place, `why` says what would go wrong, `tests` are what pytest
takes on its command line. Where code moves on, `find` and `put` follow it; a bug that cannot be made any more goes.
"""
