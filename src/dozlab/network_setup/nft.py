"""Loads a ruleset with nft(8), and says in one line what lacks when the kernel will not take it."""

from __future__ import annotations

from dozlab.lib.errors import DozlabError
from dozlab.lib.proc import Result, need, run


def load(ruleset: str) -> None:
    """Load the text in one transaction: all of it or nothing.

    :raises DozlabError: when nft is missing, has no right, or the kernel lacks a module
    """
    result = run([need("nft", "nftables"), "-f", "-"], input=ruleset.encode(), timeout=30, check=False)
    if result.code:
        raise explain(result)


def explain(result: Result) -> DozlabError:
    """Return the error for a failed nft."""
    text = result.err or result.out
    if "Operation not permitted" in text or "Permission denied" in text:
        return no_net_admin()
    if "Protocol not supported" in text or "Unable to initialize Netlink socket" in text:
        return DozlabError("this kernel has no nftables", hint="run on the node: sudo modprobe nf_tables")
    if "No such file or directory" in text or "Operation not supported" in text:
        return DozlabError(
            "this kernel lacks a netfilter module that the rules need",
            hint="run on the node: sudo modprobe -a nft_chain_nat nft_masq nft_ct nft_limit nf_conntrack",
        )
    first = next((line.strip() for line in text.splitlines() if line.strip()), f"exit status {result.code}")
    return DozlabError(f"nft refused the rules: {first}")


def no_net_admin() -> DozlabError:
    """Return the error for the missing capability."""
    return DozlabError(
        "network-setup needs the capability NET_ADMIN in this namespace",
        hint="add it: securityContext.capabilities.add: [NET_ADMIN] (one machine: start it by dozlab up)",
    )
