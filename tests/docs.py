"""Write the tables that are generated into the documentation, or with --check report which are stale."""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import yaml
from chromad.logs import events
from chromad.monitoring import metrics

_ROOT = Path(__file__).resolve().parent.parent
_DOCS = _ROOT / "daemon" / "docs"
_ROLES = _ROOT / "ansible" / "roles"


def main() -> int:
    """Return 0 when every table is, or has been made, as generated; 1 when --check finds a stale one."""
    parser = argparse.ArgumentParser(prog="python -m tests.docs", description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    # Each table is in one place.
    roles = sorted(path.name for path in _ROLES.iterdir())
    places = [(_ROLES / role / "README.md", "variables", variables(role)) for role in roles]
    places += [(_DOCS / "events.md", "events", _events()), (_DOCS / "metrics.md", "metrics", _metrics())]
    stale = []
    for path, marker, content in places:
        before = path.read_text(encoding="utf-8")
        after = _replace(before, marker, content, path)
        if after != before:
            stale.append(f"{path.relative_to(_ROOT)} ({marker})")
            if not check:
                path.write_text(after, encoding="utf-8")
    if check and stale:
        print(f"stale: {', '.join(stale)}; run make docs", file=sys.stderr)
        return 1
    return 0


def _events() -> str:
    """Return a Markdown table of what can be filtered for in the journal."""
    lines = ["| `CHROMAD_EVENT` | `MESSAGE_ID` | When |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| `{each.name}` | `{each.id}` | {each.meaning} |" for each in events.ALL)])


def _metrics() -> str:
    """Return a Markdown table of what can be scraped."""
    lines = ["| Metric | Labels | What it is |", "|---|---|---|"]
    return "\n".join(
        [*lines, *(f"| `{name}` | {', '.join(labels)} | {text} |" for name, (labels, text) in metrics.TABLE.items())]
    )


def variables(role: str) -> str:
    """Return a Markdown table of a role's variables, from its argument specs."""
    specs: dict[str, Any] = yaml.safe_load((_ROLES / role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))
    options: dict[str, Any] = specs["argument_specs"]["main"]["options"]
    lines = ["| Variable | Default | What it is |", "|---|---|---|"]
    for name, option in options.items():
        text = option["description"]
        text = " ".join(text) if isinstance(text, list) else text
        lines.append(f"| `{name}` | {_default(option)} | {' '.join(text.split())} |")
    return "\n".join(lines)


def _default(option: dict[str, Any]) -> str:
    value = option.get("default", "")
    if value is None:
        return "not set"
    if value == "":
        return "empty"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, dict):
        return f"`{yaml.safe_dump(value, default_flow_style=True, sort_keys=False).strip()}`"
    return f"`{value}`"


def _replace(text: str, name: str, content: str, path: Path) -> str:
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"{path.relative_to(_ROOT)} has no <!-- {name} --> … <!-- /{name} -->")
    return pattern.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text)


if __name__ == "__main__":
    sys.exit(main())
