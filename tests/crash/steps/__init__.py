"""Every step of every operation: each mutating system call is a place to be killed at, and to meet a full or a failing disk.

An operation (`operations`) is run once and watched: its mutating calls below the service's directories are listed, by process,
kind and path. Then it is run again, once for each call and fault:

- `kill`: SIGKILL of all its processes before the call happens.
- `full`: from this call on the disk has no room, until the operation is over.
- `failing`: the call, and nothing else, fails with an I/O error.
- `term`: SIGTERM at the call, at a sample of them.
- `power` (root): the disk is copied as it is at the call, and all goes on with the copy, in another boot; see `disks`.

After each the service is started, or the verb run again, without other help; every record is read and compared with what was
acknowledged; doctor looks; whatever lies about must have its name in what doctor says.

Calls are met by seccomp's user notification (seccomp_unotify(2)): the caller waits until it is decided what becomes of it, so a
call is hit exactly, whatever its process and thread, and the disk can be copied at it. Which calls come is not the same each
time: what did not come is told of as not reached.

`python -m tests.crash.steps` runs it; `make crash-steps` is the same.
"""
