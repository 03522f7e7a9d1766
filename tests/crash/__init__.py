"""Crash laboratory: kills, power cuts and full disks, and a look at every acknowledged record after each.

A round: clients write to four collections whose segments are persisted now often, now hardly ever; at a moment that
matters the service is struck; it is started again, without any help but systemd's Restart=on-failure; every record is
read and compared with what was acknowledged. A directory serves twenty rounds, so that one crash follows the other.

- `kill`: SIGKILL of all processes at once, inside a persist, a checkpoint, a purge of the log, recovery, warm-up, a
  stop, or at any moment.
- `power` (root): the same moments, but the disk is copied at that moment, and the service goes on with the copy, in
  another boot: see `disks`. What the disk has completed counts as kept, flushed or not.
- `full` (root): a small disk is filled up to the fence, beyond it, or to the last byte; see `full`.

`--server stock` does the same to Chroma's own server; both end in one report, FILE.json and FILE.md. Requests and the
choice of moments come from the seed; what the scheduler makes of them does not.
"""
