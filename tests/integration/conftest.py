"""Fixtures: a site of one's own for each test."""

from collections.abc import Iterator, Mapping

import pytest

from tests import packages, statements
from tests.integration import malformed
from tests.integration.account import AS_ROOT, open_doors, service, why_unreachable
from tests.integration.site import Site


@pytest.fixture(scope="session", autouse=True)
def _interpreter() -> None:
    if AS_ROOT and why_unreachable(service()):
        open_doors()
    if reason := why_unreachable(service()):
        pytest.exit(reason, returncode=1)
    try:
        packages.need({"restic": "restic"})
    except packages.Missing as error:
        pytest.exit(str(error), returncode=1)


@pytest.fixture(autouse=True)
def _note(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    malformed.ran.add(request.node.nodeid)


@pytest.fixture
def site() -> Iterator[Site]:
    """An empty data directory and all that belongs to it."""
    made = Site()
    yield made
    made.remove()


@pytest.fixture(scope="session")
def _stopped() -> Iterator[Site]:
    made = Site()
    made.serve().stop()
    yield made
    made.remove()


@pytest.fixture
def used(site: Site, _stopped: Site) -> Site:
    """A site that was served once and stopped cleanly: it has a database without records."""
    site.copy_from(_stopped)
    return site


@pytest.fixture(scope="module")
def serving() -> Iterator[Site]:
    """A site whose daemon serves all tests of a module."""
    made = Site()
    made.serve()
    yield made
    made.remove()


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, list[str]]:
    """What the installed engine says it runs, by the kind of request."""
    return statements.statements(tmp_path_factory.mktemp("told"))
