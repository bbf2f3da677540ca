"""Runs a command under what a unit of systemd forbids, where there is no systemd.

    python confined.py UNIT FOLDER COMMAND...

As root: a view of the file system as the unit's, in which FOLDER alone can be written. Then as the
account `nobody`, without rights, behind the unit's filter of system calls, which systemd-analyze
names and libseccomp applies. What of the unit is not tried is in NOT_TRIED.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

NOT_TRIED = {
    "ProtectHome": "but for a home directory with Python or userlog in it: of it no more is seen",
    "ProtectSystem": "tried as a read-only view",
    "DevicePolicy": "of control groups",
    "ProtectKernelModules": "in the filter of system calls, and without the right",
    "ProtectKernelLogs": "likewise",
    "ProtectClock": "likewise",
    "ProtectHostname": "likewise",
    "KeyringMode": "userlog keeps nothing in a keyring",
    "RemoveIPC": "after the end",
}
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_MASKED_EQUAL, _EQUAL = 7, 4
_NAMESPACES = 0x7E020080  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, NEWTIME
_NEW_MOUNTS = 0x00020000
_MDWE, _NO_NEW_PRIVILEGES = 65, 38
_ORDINARY = (0, 3, 5)  # of schedulers: other, batch, idle


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


def directives(unit: Path) -> dict[str, list[str]]:
    """Return what a unit sets below [Service]: each name with all its values."""
    found: dict[str, list[str]] = {}
    _, _, text = unit.read_text().partition("[Service]\n")
    for line in text.partition("\n[")[0].splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def main() -> None:
    """Take the rights of root apart, then run the command."""
    unit, folder, *command = sys.argv[1:]
    if os.geteuid() == 0:
        _unshare()  # os.unshare() is there from Python 3.12 on
        _see_less(Path(folder))
        settled = ("--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs")
        dropped = ("--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all")
        again = (sys.executable, "-P", __file__, unit, folder, *command)
        os.execvp("setpriv", ("setpriv", *settled, *dropped, *again))
    found = directives(Path(unit))
    os.umask(int(found["UMask"][0], 8))
    filtered = _allowed(found["SystemCallFilter"])  # before it can't be asked any more
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0
    assert libc.prctl(_MDWE, 1, 0, 0, 0) == 0
    _filter(filtered, found["RestrictAddressFamilies"][0].split())
    os.execvp(command[0], command)


def _unshare() -> None:
    assert ctypes.CDLL(None, use_errno=True).unshare(_NEW_MOUNTS) == 0


def _see_less(folder: Path) -> None:
    """Hide and protect what the unit does: processes, devices, all folders but one."""
    _mount("--make-rprivate", "/")
    _mount("--bind", str(folder), str(folder))
    _see_only(Path(sys.base_prefix), Path(sys.prefix), Path(__file__).parents[2])
    devices = [(name, Path(f"/dev/{name}").stat().st_rdev) for name in _DEVICES]
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/dev")
    os.umask(0)
    for name, number in devices:
        os.mknod(f"/dev/{name}", 0o20666, number)
    Path("/dev/shm").mkdir(mode=0o1777)  # noqa: S108 - a place, not a file
    _mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", "/dev/shm")  # noqa: S108
    _mount("-o", "remount,bind,ro", "/")
    _mount("-t", "proc", "-o", "hidepid=invisible,subset=pid", "proc", "/proc")


def _see_only(*folders: Path) -> None:
    """Hide what is beside these folders in directories that others may not pass."""
    closed = {one for folder in folders for one in folder.parents if not _passes(one)}
    kept = {folder: tempfile.mkdtemp() for folder in folders if closed & {*folder.parents}}
    for folder, elsewhere in kept.items():
        _mount("--bind", str(folder), elsewhere)
    for one in sorted(closed):
        if not closed & {*one.parents}:
            _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(one))
    for folder, elsewhere in kept.items():
        folder.mkdir(parents=True, exist_ok=True)
        _mount("--bind", elsewhere, str(folder))
        subprocess.run(("umount", elsewhere), check=True)
        Path(elsewhere).rmdir()


def _passes(folder: Path) -> bool:
    return bool(folder.stat().st_mode & 0o001)


def _mount(*words: str) -> None:
    subprocess.run(("mount", *words), check=True)


def _allowed(filters: list[str]) -> set[str]:
    """Return the system calls that are left of a list of sets."""
    names: set[str] = set()
    for each in filters:
        if each.startswith("~"):
            names -= {name for one in each[1:].split() for name in _expanded(one)}
        else:
            names |= {name for one in each.split() for name in _expanded(one)}
    return names


def _expanded(name: str) -> set[str]:
    if not name.startswith("@"):
        return {name}
    listed = subprocess.run(
        ("systemd-analyze", "syscall-filter", "--no-pager", name),
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()[1:]
    inside = {line.strip() for line in listed if line.strip() and not line.strip().startswith("#")}
    return {call for one in inside for call in _expanded(one)}


def _filter(names: set[str], families: list[str]) -> None:
    """Let only these system calls through, sockets of some families, no new namespaces."""
    library = ctypes.CDLL(ctypes.util.find_library("seccomp"))
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(_ERRNO | errno.EPERM))

    def rule(action: int, name: str, *compared: _Comparison) -> None:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:  # not of this processor
            return
        values = (_Comparison * len(compared))(*compared)
        done = library.seccomp_rule_add_array(context, action, number, len(compared), values)
        assert done == 0, (name, done)

    special = {"socket", "clone", "clone3", "unshare", "setns", "sched_setscheduler"}
    for name in sorted(names - special):
        rule(_ALLOW, name)
    for family in families:
        rule(_ALLOW, "socket", _Comparison(0, _EQUAL, getattr(socket, family), 0))
    rule(_ALLOW, "clone", _Comparison(0, _MASKED_EQUAL, _NAMESPACES, 0))
    rule(_ERRNO | errno.ENOSYS, "clone3")
    for scheduler in _ORDINARY:
        rule(_ALLOW, "sched_setscheduler", _Comparison(1, _EQUAL, scheduler, 0))
    assert library.seccomp_load(context) == 0


if __name__ == "__main__":
    main()
