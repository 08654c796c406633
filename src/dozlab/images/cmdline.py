"""The guest kernel's command line, for both VMMs. Pure.

Sources: the kernel's Documentation/admin-guide/kernel-parameters.txt, kernel-command-line(7) of systemd,
Firecracker's docs (its default line holds `nomodule`, so one is always passed).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Vmm = Literal["qemu", "firecracker"]
Accel = Literal["kvm", "tcg"]

_COMMON = (
    "console=ttyS0",
    "quiet",  # errors, panics and "reboot:" lines are still printed; a serial line is slow
    "panic=-1",  # reset at once: with -no-reboot, and on Firecracker, that ends the VMM
    "lsm=landlock,yama,bpf",  # Debian starts SELinux, without a policy, where AppArmor is off
    "8250.nr_uarts=1",  # each needless port is a device for udev
    "apparmor=0",  # Docker wants the package's profiles otherwise, and loading them costs 18 s emulated
    "random.trust_cpu=on",
    "net.ifnames=0",  # eth0 stays eth0
    "cloud-init=disabled",
    "systemd.mask=systemd-networkd-wait-online.service",  # eth0 is up before systemd starts
    "systemd.show_status=false",
)


def cmdline(
    *, vmm: Vmm, accel: Accel, vm_ip: str, gateway_ip: str, prefix: int = 24, mtu: int | None = None,
    workspace_port: int = 5540, extra: Sequence[str] = (),
) -> str:  # fmt: skip
    """Return the command line of a session's guest.

    :param prefix: bits of the network that holds both addresses
    :param mtu: bytes, for eth0; None leaves the device's own
    :param extra: words put last, so that they win
    :raises ValueError: when a word of `extra` holds white space or there is a control character in it
    """
    words = [*_COMMON, *_vmm_words(vmm), *_accel_words(accel)]
    words += [f"dozlab.ip={vm_ip}/{prefix}", f"dozlab.gw={gateway_ip}", f"dozlab.ws={workspace_port}"]
    if mtu is not None:
        words.append(f"dozlab.mtu={mtu}")
    for word in extra:
        if not word or not word.isprintable() or any(mark.isspace() for mark in word):
            raise ValueError(f"not a word for the kernel command line: {word!r}")
    return " ".join([*words, *extra])


def probe_cmdline(*, vmm: Vmm, accel: Accel = "kvm") -> str:
    """Return the command line of a probe boot (`probe.img`), without network and disks."""
    return " ".join(
        ["console=ttyS0", "quiet", "panic=-1", "random.trust_cpu=on", *_vmm_words(vmm), *_accel_words(accel)]
    )


def _vmm_words(vmm: Vmm) -> list[str]:
    if vmm == "firecracker":
        # reboot=k: its i8042 answers only to the reset command; there is no PCI bus and no power button.
        return ["reboot=k", "pci=off", "i8042.noaux", "i8042.nomux", "i8042.dumbkbd", "dozlab.off=reboot"]
    return ["reboot=t"]


def _accel_words(accel: Accel) -> list[str]:
    if accel == "tcg":
        # An emulated processor has none of the faults that the mitigations pay for, and its timers are checked by QEMU.
        return ["mitigations=off", "no_timer_check", "tsc=reliable", "nokaslr", "nowatchdog", "audit=0"]
    return []
