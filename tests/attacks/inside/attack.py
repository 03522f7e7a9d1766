"""One attack: the host as it was, something put in a place, the verb as root, and what must not have happened by then."""

import os
import pwd
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from . import canaries, controller, forged, layout, places, scenes, traces
from .crafted import Craft
from .racer import Racer, Target
from .traces import Touched
from .verbs import PLAYBOOK, VERBS, Verb

# Seconds that a verb may take to end after each signal; the fourth ends one that hangs (chromad.host.privileges).
_PATIENCE = 5.0
_SHOWN = 6


@dataclass(frozen=True)
class Result:
    """outcome: refused, done, waited (it ended when it was interrupted) or hung. code: of the verb. rounds: of the racer.
    exchanges: that it made. problems: whatever must not be. said: the end of the output, where there are some."""

    verb: str
    kind: str
    what: str
    outcome: str
    code: int
    seconds: float
    rounds: int
    exchanges: int
    problems: list[str]
    said: str

    def document(self) -> dict[str, object]:
        """For the controller."""
        return asdict(self)


class Useless(Exception):
    """Nothing is to be proven by an attack."""


class Attacker:
    """Attacks verbs, one after the other. facts: names that verbs have in their words."""

    def __init__(self, facts: dict[str, str]) -> None:
        self._facts = facts
        self._there: tuple[str, bool] | None = None
        self._touched: dict[str, list[Touched]] = {}
        self._engines: dict[str, list[str]] = {}
        self._took: dict[str, float] = {}

    @property
    def known(self) -> dict[str, list[Touched]]:
        """What the verbs touch that were traced, by their names."""
        return self._touched

    def look(self, verb: Verb) -> Result:
        """Without an attack: no engine and no restic is root's."""
        self.trace(verb)
        problems = [f"run by root: {each}" for each in self._engines.get(verb.like or verb.name, [])]
        return Result(verb.name, "trace", "who runs engines", "done", 0, 0.0, 0, 0, problems, "")

    def trace(self, verb: Verb) -> list[Touched]:
        """What a verb touches. Raises Useless when it does not work without an attack: nothing would be proven."""
        if verb.like:
            return self.trace(next(each for each in VERBS if each.name == verb.like))
        if verb.name not in self._touched:
            self._bring(verb, fresh=True)
            started = time.monotonic()
            if verb.program == PLAYBOOK:
                code, said, found = traces.touched_by_ssh(lambda: controller.play(verb.words[0], traced=True))
            else:
                code, said, found = traces.touched(verb.argv(self._facts), verb.environment, verb.limit * 4)
            self._took[verb.name] = time.monotonic() - started
            self._there = None
            if code not in verb.codes:
                raise Useless(f"it does not work unattacked: exit {code}: {said.decode(errors='replace')[-2000:]}")
            self._touched[verb.name] = found
            self._engines[verb.name] = traces.engines_of_root()
        return self._touched[verb.name]

    def put(self, verb: Verb, place: Path, kind: str) -> Result:
        """Something is in the place of a path that the verb touches."""
        self._bring(verb)
        problem = places.put(place, kind)
        what = f"{kind} at {place}"
        if problem:
            result = Result(verb.name, "static", what, f"impossible: {problem}", 0, 0.0, 0, 0, [], "")
        else:
            result = self._watched(verb, "static", what)
        # The verb may have moved what it is in.
        with suppress(FileNotFoundError):
            places.take_away(place)
        self._leave(verb)
        return result

    def race(
        self, verb: Verb, targets: Sequence[Target], *, gently: bool, part: float, seed: int, rounds: int
    ) -> Result:
        """Places are exchanged while it runs. part: of its usual time after which that begins."""
        self._bring(verb)
        places.make_mirror(next((each.place for each in targets if each.kind == "link-mirror"), None))
        racer = Racer(targets, gently=gently, delay=part * self._usual(verb), seed=seed)
        result = self._watched(verb, "race", "; ".join(map(str, targets)), racer, rounds)
        self._leave(verb)
        return result

    def craft(self, verb: Verb, craft: Craft) -> Result:
        """The verb reads what was written for it. The service may not start with that."""
        self._bring(verb, start=False)
        self._there = None
        if problem := layout.as_service(craft.make):
            raise Useless(f"{craft.name} could not be made: {problem}")
        if verb.serving:
            layout.start()
        return self._watched(verb, "crafted", craft.name)

    def lie(self, verb: Verb, name: str, answer: bytes) -> Result:
        """Somebody else than the daemon answers."""
        self._bring(verb)
        self._there = None
        child = os.fork()
        if not child:
            layout.become_service()
            forged.lie(answer, verb.limit * 2)
            os._exit(0)
        time.sleep(0.2)
        try:
            return self._watched(verb, "crafted", name)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

    def _usual(self, verb: Verb) -> float:
        # A trace makes it slower.
        return min(self._took.get(verb.name, 1.0) / 6, verb.limit / 4)

    def _bring(self, verb: Verb, *, start: bool = True, fresh: bool = False) -> None:
        wanted = (verb.scene, verb.serving)
        if self._there == wanted and not fresh and start and (not verb.serving or layout.serves()):
            return
        _end_others()
        scenes.need(verb.scene)
        layout.put_back(verb.scene)
        if verb.serving and start and not layout.start():
            raise Useless("the service does not start with what was kept")
        self._there = wanted

    def _leave(self, verb: Verb) -> None:
        if not verb.light:
            self._there = None

    def _watched(self, verb: Verb, kind: str, what: str, racer: Racer | None = None, rounds: int = 0) -> Result:
        before = canaries.look()
        if racer:
            racer.start()
        started = time.monotonic()
        try:
            outcome, code, said = _play(verb) if verb.program == PLAYBOOK else _run(verb, verb.argv(self._facts))
        finally:
            exchanges = racer.stop() if racer else 0
        seconds = round(time.monotonic() - started, 2)
        problems = [*canaries.changes(before, canaries.look()), *canaries.leaks(said)]
        if problems:
            canaries.make()
        if b"Traceback" in said or b"an error that nobody foresaw" in said:
            problems.append("a traceback")
        if b"\x1b" in said:
            problems.append("an escape sequence for the terminal")
        if outcome == "hung":
            problems.append("it did not end when it was interrupted")
        text = said.decode(errors="replace")[-3000:] if problems or outcome == "waited" else ""
        return Result(verb.name, kind, what, outcome, code, seconds, rounds, exchanges, problems[:_SHOWN], text)


def _play(verb: Verb) -> tuple[str, int, bytes]:
    code, said = controller.play(verb.words[0], traced=False)
    return "hung" if code < 0 else "refused" if code else "done", code, said


def _run(verb: Verb, argv: Sequence[str]) -> tuple[str, int, bytes]:
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            argv,
            env=verb.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            start_new_session=True,
        )
        outcome = ""
        try:
            process.wait(verb.limit)
        except subprocess.TimeoutExpired:
            outcome = _interrupt(process)
        output.seek(0)
        said = output.read()
    return outcome or ("refused" if process.returncode else "done"), process.returncode, said


def _interrupt(process: "subprocess.Popen[bytes]") -> str:
    for number in (signal.SIGINT, signal.SIGTERM) * 2:
        process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)
            return "waited"
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return "hung"


def _end_others() -> None:
    """Ends what of the service user's still runs outside of the unit, such as an engine whose verb was killed."""
    layout.stop()
    uid = pwd.getpwnam("chromadb").pw_uid
    for path in Path("/proc").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            if path.name.isdecimal() and path.stat().st_uid == uid:
                os.kill(int(path.name), signal.SIGKILL)


Make = Callable[[], Result]
