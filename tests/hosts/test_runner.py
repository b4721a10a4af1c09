"""What a host is to the cache.

How files are loaded, run and raced is proven for each kind of host (test_local.py,
test_ssh.py, ...).
"""

import dataclasses
import json

from edgekit.hosts.local import LocalHost


def test_a_hosts_identity_is_all_that_its_numbers_depend_on() -> None:
    """Another command, number of threads, or reason not to be timed is another host to the
    cache; the process is not.
    """
    here = LocalHost()
    assert (
        here.identity() == LocalHost().identity()
        and "pid" not in here.identity()
    )
    start = dataclasses.replace(here.start, command=(*here.start.command, "-B"))
    others = [
        dataclasses.replace(here, start=start),
        dataclasses.replace(here, threads=2),
        dataclasses.replace(here, untimed="shared"),
    ]
    assert (
        len(
            {
                json.dumps(host.identity(), sort_keys=True)
                for host in (here, *others)
            }
        )
        == 4
    )
