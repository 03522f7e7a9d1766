"""What fails in a thread of a running daemon reaches whoever looks, and the thread goes on."""

import urllib.request

from tests.integration import records
from tests.integration.account import until
from tests.integration.site import Site

# The daemon imports this before anything else: what has a marker fails as a defect of its own would.
_DEFECTS = """
import os
from chromad.daemon import checkpointer, guard
from chromad.monitoring import telemetry
from chromad.store import fence

def broken(owner, name, marker):
    real = getattr(owner, name)
    def call(*arguments, **words):
        if os.path.exists(os.path.join({markers!r}, marker)):
            None[0]
        return real(*arguments, **words)
    setattr(owner, name, call)

broken(guard.Guard, "look", "guard")
broken(telemetry.Telemetry, "_count", "telemetry")
broken(checkpointer.Checkpointer, "_due", "checkpointer")
broken(fence, "put", "verb")
"""
_NAMES = ("disk guard", "telemetry", "checkpointer")


def test_defects_in_threads(site: Site) -> None:
    markers = site.root / "markers"
    markers.mkdir()
    hook = site.root / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(_DEFECTS.format(markers=str(markers)), encoding="ascii")
    names = ("guard", "telemetry", "checkpointer", "verb")
    for name in names:
        (markers / name).touch()
    daemon = site.serve({"PYTHONPATH": str(hook)})
    held = records.fill(daemon.client(), "some", 30)
    until(lambda: all(daemon.status()["threads"].get(name) for name in _NAMES), "all of them fail")
    for name in _NAMES:
        assert "'NoneType' object is not subscriptable" in daemon.status()["threads"][name]
        assert daemon.log.count(f"ERROR   {name} failed: ") == 1, daemon.log
        assert f'chromad_thread_failing{{thread="{name}"}} 1.0' in metrics(site)
        assert f"{name}: TypeError" in " ".join(site.chromactl("status").output.split())
    doctor = [each for each in site.chromactl("doctor", "--json").json() if each["name"] == "threads"]
    assert {each["status"] for each in doctor} == {"fail"}
    result = site.chromactl("fence", "--reason", "a test")
    assert result.code == 1
    assert "fence failed: TypeError" in result.output
    assert "HINT: journalctl -u chromadb" in result.output
    assert "Traceback" not in daemon.log
    for name in names:
        (markers / name).unlink()
    assert site.chromactl("fence", "--reason", "a test").code == 0
    assert site.chromactl("unfence").code == 0
    until(lambda: not any(daemon.status()["threads"].values()), "they go well again")
    assert 'chromad_thread_failing{thread="disk guard"} 0.0' in metrics(site)
    records.assert_equal(daemon.client(), "some", held)
    daemon.stop()


def metrics(site: Site) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{site.metrics_port}/metrics", timeout=20) as answer:
        return str(answer.read().decode())
