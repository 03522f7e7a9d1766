"""What an operator filters the journal for. Each event has a MESSAGE_ID of its own, see systemd.journal-fields(7) and
`journalctl MESSAGE_ID=…`; its name is in the field CHROMAD_EVENT."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """id: 128 bits in hexadecimal digits, never used for anything else. meaning: when it is told."""

    name: str
    id: str
    meaning: str

    @property
    def extra(self) -> dict[str, object]:
        """For the parameter `extra` of a logger's methods."""
        return {"event": self}


READY = Event("ready", "811daa86556949bc8fd72934fa04758a", "the service serves")
CLEAN_STOP = Event("clean_stop", "d49fbbd4a2cd45229e06ac3abc72821f", "the service has stopped, everything is on disk")
UNCLEAN_STOP = Event(
    "unclean_stop", "861b555b2baa429c87b3734a83a88be0", "a start finds that the run before it was cut off"
)
ENDED = Event("ended", "bd8da945bdd44ee19c492e6868a271e8", "the service ends, or does not start, for the reason given")
RECOVERED = Event("recovered", "6abb2aa5c48f4ac58f37ae565fb7c4b2", "recovery has replaced, rebuilt or kept a segment")
QUARANTINED = Event(
    "quarantined", "30d5591ebc2b484e81ca7a360c27435e", "a collection refuses writes until it is repaired"
)
MENDED = Event(
    "mended", "ab38fb7082524807a98dd1ed36cd2786", "a checkpoint has vectors that the engine had not persisted"
)
CHECKPOINT_FAILED = Event("checkpoint_failed", "6e15527d33ea43c782b90526ea5dea4f", "checkpoints could not be taken")
FENCED = Event("fenced", "8541d209814c476dac7fcbe116c17343", "the operator refuses writes")
UNFENCED = Event("unfenced", "eba80b50149245a6909f019a07ab3eb8", "the operator lets writes through again")
DISK_WARNING = Event("disk_warning", "209c0ea200e341cd8f5083ac225d93a5", "a file system is above disk.warn_percent")
DISK_FENCED = Event(
    "disk_fenced", "4ea742ec73da490e88228e113b3cb448", "writes are refused, since a file system is full"
)
DISK_WELL = Event("disk_well", "b52614cbf66342d6b5a870a16ce2312f", "all file systems have room again")
BACKUP_TAKEN = Event("backup_taken", "876e44280de44fef9b4027d3d7444d45", "a backup is stored and proven")
BACKUP_FAILED = Event("backup_failed", "3a9f5b937a1d4289ae9c82b4ecee36ae", "a backup could not be taken or proven")
DRILL_PASSED = Event("drill_passed", "44753fb85e664cd58bb16d62fe506b75", "a backup was restored on trial")
DRILL_FAILED = Event("drill_failed", "7dd78f8bbb01485ea1933e8ee45b0ee6", "a backup could not be restored on trial")
RESTORED = Event("restored", "22debdabc3064d8186fae830859a4f2c", "a backup was restored")
UPGRADED = Event("upgraded", "df18b47086cb0ac707561df9241c835c", "another version of Chroma serves the data")
UPGRADE_FAILED = Event(
    "upgrade_failed",
    "605606fd33accd1108ce5ec441bb0378",
    "another version did not take over; the former one serves again",
)
TOKENS_CHANGED = Event(
    "tokens_changed", "f03711976b2842759fb91d035d19b209", "a token of the gateway was made, rotated or revoked"
)

ALL = [each for each in list(globals().values()) if isinstance(each, Event)]
