"""The address by which other nodes reach this one."""

from __future__ import annotations

import fcntl
import socket
import struct

from raytune_hpo.errors import InfrastructureError

_SIOCGIFADDR = 0x8915


def own_address(interface: str | None, peer: str | None, *, alone: bool = False) -> str:
    """Return this node's IPv4 address, without asking anything outside of the cluster.

    Args:
        interface: Network interface to take it from, or None.
        peer: A node of the cluster to reach, or None when there is none yet.
        alone: Whether no other node is to reach this one.

    Raises:
        InfrastructureError: There is no such interface, or there is only a loopback address.
    """
    if interface is not None:
        return _of_interface(interface)
    if peer is not None:
        # Nothing is sent: the kernel only says from where it would.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((peer, 9))
            return str(probe.getsockname()[0])
    host = socket.gethostname()
    found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, None, socket.AF_INET)]
    outside = [address for address in found if not address.startswith("127.")]
    if alone:
        return (outside or found)[0]
    if not outside:
        raise InfrastructureError(
            f"the name {host} means {', '.join(found) or 'nothing'} on this node, which others "
            "cannot reach; say which network to use: targets.slurm.interface: ib0 (see: ip -4 addr)"
        )
    return outside[0]


def _of_interface(name: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(
                probe.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15])
            )
        except OSError as error:
            there = ", ".join(known for _, known in socket.if_nameindex())
            raise InfrastructureError(
                f"targets.slurm.interface: {socket.gethostname()} has no IPv4 address on '{name}' "
                f"({error.strerror}); it has the interfaces {there}"
            ) from error
    return socket.inet_ntoa(answer[20:24])
