"""What the role builds on the controller: named by its sources, and everything with a hash."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.integration.account import AS_ROOT

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "ansible/roles/chromadb/files/wheels.py"
DAEMON = ROOT / "daemon"


def test_a_tree_of_another_controller_has_the_same_name(tmp_path: Path) -> None:
    trees = [_tree(tmp_path / f"{umask:03o}", umask) for umask in (0o022, 0o002, 0o077)]
    assert len({(tree / "chromad/config/__init__.py").stat().st_mode for tree in trees}) == 3
    # What running it there leaves behind
    (trees[0] / "chromad/__pycache__").mkdir()
    (trees[0] / "chromad/__pycache__/config.cpython-311.pyc").write_bytes(b"compiled")
    assert len({_run("digest", tree).stdout for tree in [DAEMON, *trees]}) == 1


@pytest.mark.parametrize(
    "name", ["chromad/config/__init__.py", "chromad/monitoring/page.html", "pyproject.toml", "requirements.lock"]
)
def test_other_sources_have_another_name(tmp_path: Path, name: str) -> None:
    tree = _tree(tmp_path / "tree", 0o022)
    before = _run("digest", tree).stdout
    (tree / name).write_text((tree / name).read_text() + "\n")
    changed = _run("digest", tree).stdout
    assert changed != before
    if name.startswith("chromad/"):
        (tree / name).rename(tree / f"{name}.other")
        assert _run("digest", tree).stdout not in (before, changed)


def test_everything_a_host_is_told_to_install_has_a_hash_and_is_built_once(tmp_path: Path) -> None:
    tree = _tree(tmp_path / "tree", 0o077)
    first = _run("build", tree, cache=tmp_path)
    assert first.returncode == 0, first.stderr
    made = Path(first.stdout.strip())
    assert made.parent == tmp_path / "chromad"
    names = sorted(path.name for path in made.iterdir())
    assert names == ["chromad-0.1.0-py3-none-any.whl", "requirements.txt", "sdnotify-0.3.2-py3-none-any.whl"]
    text = (made / "requirements.txt").read_text()
    entries = re.findall(r"^(?=[A-Za-z0-9./])(?:.*\\\n)*.*\n", text, re.MULTILINE)
    assert "".join(entries) == re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE)
    assert all("--hash=sha256:" in entry for entry in entries)
    for wheel in made.glob("*.whl"):
        assert f"./{wheel.name} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n" in entries
    # The service reads it, whatever the controller's umask is.
    with zipfile.ZipFile(made / names[0]) as wheel_file:
        modes = {each.external_attr >> 16 & 0o777 for each in wheel_file.infolist() if "dist-info" not in each.filename}
    assert modes == {0o644}
    before = made.stat().st_mtime_ns
    assert _run("build", tree, cache=tmp_path).stdout == first.stdout
    assert made.stat().st_mtime_ns == before
    assert [path.name for path in made.parent.iterdir()] == [made.name]


def test_a_source_archive_with_another_hash_is_not_built(tmp_path: Path) -> None:
    tree = _tree(tmp_path / "tree", 0o022)
    lock = tree / "requirements.lock"
    text = lock.read_text()
    [digest] = re.findall(r"^sdnotify==.*\\\n *--hash=sha256:(\w+)", text, re.MULTILINE)
    lock.write_text(text.replace(digest, "0" * 64))
    done = _run("build", tree, cache=tmp_path)
    assert done.returncode == 1
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert list((tmp_path / "chromad").iterdir()) == []


@pytest.mark.parametrize(
    ("packages", "problem"),
    [
        ({}, "pip is missing"),
        ({"pip": "23.0"}, "setuptools is missing"),
        ({"pip": "23.0", "setuptools": "65.5.1", "wheel": "0.40"}, "setuptools is older than 66"),
        ({"pip": "23.0", "setuptools": "68.1.2"}, "wheel is missing"),
        ({"pip": "23.0", "setuptools": "68.1.2", "wheel": "0.40"}, ""),
        ({"pip": "23.0", "setuptools": "70.1.0"}, ""),
    ],
)
def test_a_controller_that_cannot_build_says_what_it_lacks(
    tmp_path: Path, packages: dict[str, str], problem: str
) -> None:
    for name, version in packages.items():
        metadata = tmp_path / f"{name}-{version}.dist-info/METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    code = f"import sys; sys.path[:0] = [{str(PROGRAM.parent)!r}, {str(tmp_path)!r}]; import wheels; print(wheels.lacking())"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().startswith(problem)
    assert bool(done.stdout.strip()) is bool(problem)


_BRING = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Bring what the controller has
      ansible.builtin.import_role:
        name: chromadb
        tasks_from: wheelhouse.yml
      when: wanted
  vars:
    __chromadb_sources: {start: "2026-01-02 03:04:05.678901"}
    __chromadb_wheels_built: {stdout: "{{ place }}/cache/made"}
    chromadb_home: "{{ place }}/{{ inventory_hostname }}"
"""


@pytest.mark.skipif(not AS_ROOT, reason="what hosts get is root's")
def test_a_wheelhouse_is_packed_once_for_all_hosts_that_are_to_have_it(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.whl").write_text(name)
    tar = tmp_path / "bin/tar"
    tar.parent.mkdir()
    tar.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\nexec {shutil.which("tar")} "$@"\n')
    tar.chmod(0o755)
    # The first host needs none: what is done once is not to hang on it.
    hosts = {f"h{number}": {"chromadb_wheelhouse": str(tmp_path / "new"), "wanted": number > 0} for number in range(4)}
    hosts["h3"]["chromadb_wheelhouse"] = str(tmp_path / "old")
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "place": str(tmp_path)}
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts, "vars": local}}))
    (tmp_path / "play.yml").write_text(_BRING)
    for name in ("cache", *(f"{host}/packages" for host in hosts)):
        (tmp_path / name).mkdir(parents=True)
    done = subprocess.run(
        [Path(sys.executable).parent / "ansible-playbook", "-i", tmp_path / "hosts.json", tmp_path / "play.yml"],
        cwd=ROOT / "ansible",
        env={**os.environ, "PATH": f"{tar.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    brought = {path.parents[2].name: path.name for path in tmp_path.glob("h*/packages/wheelhouse/*")}
    assert brought == {"h1": "new.whl", "h2": "new.whl", "h3": "old.whl"}
    packed = [line for line in (tmp_path / "calls").read_text().splitlines() if line.startswith("-cf")]
    assert len(packed) == 2
    assert list((tmp_path / "cache").iterdir()) == []


def _tree(path: Path, umask: int) -> Path:
    """The daemon's sources, as a checkout with that umask has them."""
    before = os.umask(umask)
    try:
        shutil.copytree(
            DAEMON,
            path,
            copy_function=shutil.copyfile,
            ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "docs"),
        )
    finally:
        os.umask(before)
    return path


def _run(verb: str, daemon: Path, cache: Path | None = None) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, **({"XDG_CACHE_HOME": str(cache)} if cache else {})}
    command = [sys.executable, str(PROGRAM), verb, str(daemon)]
    return subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
