"""Puts itself, and with that all that descends from it, under a filter of system calls, and becomes a command.

Arguments: the path of a socket, which gets the descriptor at which filtered calls are told of; the filter's program, in
hexadecimal; the command. It runs without this package, before it is another user.
"""

import ctypes
import os
import socket
import sys

_PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h
_SECCOMP = 317  # the system call on x86-64
_SET_MODE_FILTER = 1  # linux/seccomp.h
# What waits for an answer is interrupted by nothing but its end: runtimes that send themselves signals would repeat calls.
_NEW_LISTENER, _WAIT_KILLABLE_RECV = 1 << 3, 1 << 5


class _Program(ctypes.Structure):
    """struct sock_fprog, linux/filter.h"""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def main() -> None:
    """Does not return."""
    path, program, *command = sys.argv[1:]
    code = bytes.fromhex(program)
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() != 0:
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    flags = _NEW_LISTENER | _WAIT_KILLABLE_RECV
    fd = libc.syscall(_SECCOMP, _SET_MODE_FILTER, flags, ctypes.byref(_Program(len(code) // 8, code)))
    if fd < 0:
        sys.exit(f"seccomp: {os.strerror(ctypes.get_errno())}")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        socket.send_fds(connection, [b"."], [fd])
    os.close(fd)
    os.execvp(command[0], command)


main()
