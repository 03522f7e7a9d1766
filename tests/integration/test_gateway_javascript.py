"""The official client for JavaScript, through the gateway."""

from pathlib import Path

import pytest

from tests.integration import javascript
from tests.integration.gateway import Answers, Gateway
from tests.integration.site import Site

pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(javascript.left_out()), reason=javascript.left_out())]


def test_tour_of_the_client_for_javascript(site: Site, tmp_path: Path) -> None:
    javascript.need_node()
    site.serve()
    answers = Answers(site.run / "gateway.sock", site)
    gateway = Gateway(site.port, site.run / "gateway.sock")
    try:
        gateway.start()
        with gateway.http(gateway.token("root", "admin")) as client:
            client.post("/api/v2/tenants", json={"name": "tena"}).raise_for_status()
            client.post("/api/v2/tenants/tena/databases", json={"name": "dba"}).raise_for_status()
        environment = {
            "NODE_EXTRA_CA_CERTS": str(gateway.certificate),
            "TOKEN_RW": gateway.token("a-rw", "rw", "tena/dba"),
            "TOKEN_RO": gateway.token("a-ro", "ro", "tena/dba"),
        }
        said = javascript.run(
            javascript.FILES / "tour.mjs", str(gateway.port), directory=tmp_path, environment=environment
        )
    finally:
        gateway.stop()
        answers.close()
    assert said.endswith("toured\n")
