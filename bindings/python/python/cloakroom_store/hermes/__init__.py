"""Hermes Agent's session index on Cloakroom.

One line, after the gateway has made its session store and before it serves. Either of

    cloakroom_store.hermes.install(session_store)
    cloakroom_store.hermes.take_over(session_store)

`install` puts the routing table on a store: Hermes' class and its dict of all entries stay, and what it writes goes to
Cloakroom. `take_over` puts the index itself there: no dict of all entries any more, each verb costs what it changes, and
what changes the store by other ways is seen. `uninstall` is the way back from both.
"""

from ._moving import NotMoved, install, take_over, uninstall
from ._routing import Routing

__all__ = ["NotMoved", "Routing", "install", "take_over", "uninstall"]
