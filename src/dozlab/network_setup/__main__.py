"""Entry point of network-setup: reads the environment, loads the rules, makes the tap, says what it did, ends."""

from __future__ import annotations

import argparse
import errno
import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

from dozlab.lib import files, log
from dozlab.lib.errors import DozlabError
from dozlab.lib.timeline import Timeline
from dozlab.network_setup import links, nft, rules
from dozlab.network_setup.netlink import Netlink
from dozlab.network_setup.settings import PREFIX, Settings, from_env

logger = logging.getLogger(__name__)

HELP = """Make the guest's side of the network in the namespace we are in: tap, forwarding, NAT, egress and input rules.
Safe to run again: a second run changes what has changed. Needs NET_ADMIN and /dev/net/tun. Environment: SESSION_ID,
SHARED_DIR (/shared), GATEWAY_IP (172.16.0.1), VM_IP (172.16.0.2), TAP_DEVICE_NAME (tap0), TAP_UID (own), DNS_SERVERS
(those of /etc/resolv.conf), EGRESS_ALLOW, EGRESS_DENY (networks), WORKSPACE_PORT (5540), SSH_RELAY_PORT (2222),
PORTS_PORT (of the terminal's proxy, 0: none), UPLINK_DEVICE (that of the default route), HOST_IP and
KUBERNETES_SERVICE_HOST (closed to the guest).
Writes network.json to SHARED_DIR."""


def set_up(settings: Settings) -> dict[str, Any]:
    """Bring this namespace to the wanted state and return what network.json holds.

    The rules come first, by device name: there is no moment with a link and without rules.

    :raises DozlabError: one line that names what lacks
    """
    try:
        with Netlink() as netlink:
            found, mtu = links.facts(netlink, settings)
            nft.load(rules.ruleset(settings, found))
            links.set_up_tap(netlink, settings, mtu)
            if found.uplink:
                links.forward_on(netlink, found.uplink)
    except OSError as error:
        if error.errno == errno.EPERM:
            raise nft.no_net_admin() from error
        raise DozlabError(f"the kernel refused the network set-up: {error.strerror or error}") from error
    if not settings.dns:
        logger.warning("no name server that the guest could use: set DNS_SERVERS (network.dns)")
    return {
        "tap": settings.tap,
        "gateway": str(settings.gateway),
        "vm": str(settings.vm),
        "prefix": PREFIX,
        "mac": links.guest_mac(settings),
        "uplink": found.uplink,
        "mtu": mtu,
        "dns": [str(server) for server in settings.dns],
    }


def main(argv: list[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run the component and return its exit status."""
    parser = argparse.ArgumentParser("network-setup", description=HELP, formatter_class=argparse.RawTextHelpFormatter)
    parser.parse_args(argv)
    log.set_up("network-setup")
    started = time.monotonic()
    timeline: Timeline | None = None
    try:
        settings = from_env(environ)
        timeline = Timeline(settings.shared_dir)
        try:
            timeline.add("network", "start")
        except OSError as error:
            raise DozlabError(f"cannot write to {settings.shared_dir}: {error.strerror}") from error
        network = set_up(settings)
        files.write_json(settings.shared_dir / "network.json", network)
        timeline.add("network", "done", f"{network['tap']} behind {network['uplink'] or 'no uplink'}")
    except DozlabError as error:
        print(f"network-setup: {error}", file=sys.stderr)  # noqa: T201  (the one line for people)
        if timeline is not None and timeline.path.exists():
            timeline.add("network", "failed", str(error))
        return error.exit_code
    logger.info(
        "%s %s, guest %s, uplink %s, mtu %d, in %.0f ms", network["tap"], network["gateway"], network["vm"],
        network["uplink"] or "none", network["mtu"], (time.monotonic() - started) * 1000,
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
