"""Other versions of ansible-core than the one in .venv. python -m tests.ansible_versions VERSION prints the place of their programs.

Each has an environment in the tests' cache. Theirs is the whole of it, or with the command line the rest comes from .venv, as the
playbooks of molecule need it.
"""

import re
import shutil
import site
import subprocess
import sys
from pathlib import Path

import yaml

_ROOT = Path(__file__).resolve().parent.parent
_CACHE = Path("/var/cache/chromad-test/ansible")
_UV = Path(sys.executable).parent / "uv"


def floor() -> str:
    """The lowest version that the roles name, with its first patch."""
    meta = yaml.safe_load((_ROOT / "ansible/roles/chromadb/meta/main.yml").read_text(encoding="utf-8"))
    return f"{meta['galaxy_info']['min_ansible_version']}.0"


def programs(version: str, *others: str) -> Path:
    """The directory of its ansible-playbook. others: packages that are to be beside it; without any there is not even pip."""
    name = "-".join([version, *(re.sub(r"\W", "_", each) for each in others)])
    made = _CACHE / f"python{sys.version_info.major}.{sys.version_info.minor}-{name}"
    if not (made / "complete").exists():
        shutil.rmtree(made, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", made], check=True)
        wanted = [f"ansible-core=={version}", *others]
        subprocess.run([_UV, "pip", "install", "--quiet", "--python", made / "bin/python", *wanted], check=True)
        (made / "complete").touch()
    return made / "bin"


def with_ours(version: str) -> Path:
    """The same, in an environment that finds all else in the one of this program."""
    made = programs(version)
    [inside] = made.parent.glob("lib/python*/site-packages")
    lines = "".join(f"import site; site.addsitedir({each!r})\n" for each in site.getsitepackages())
    target = made.parent.with_name(f"{made.parent.name}-ours")
    if not target.exists():
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", target], check=True)
        [others] = target.glob("lib/python*/site-packages")
        (others / "a-first.pth").write_text(f"{inside}\n", encoding="utf-8")
        (others / "b-ours.pth").write_text(lines, encoding="utf-8")
        for program in made.glob("ansible*"):
            text = program.read_text(encoding="utf-8").replace(str(made), str(target / "bin"), 1)
            (target / "bin" / program.name).write_text(text, encoding="utf-8")
            (target / "bin" / program.name).chmod(0o755)
    return target / "bin"


if __name__ == "__main__":
    print(with_ours(floor() if sys.argv[1] == "floor" else sys.argv[1]))
