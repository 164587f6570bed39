"""When a node is emptied, and how: absent is safe, so a node that may lack a write begins anew.

The new incarnation is written last. Without it every Function refuses to write, and with it every call that was meant
for an older one is refused. Used by: registrar.py.
"""

import secrets

from infra import redis_keys
from infra.copies import Copies
from infra.node_check import Found
from infra.redis_node import RedisNode
from infra.znodes import UNREADABLE

MISSED_A_WRITE = "it may have missed a write"
EMPTYING_TIMEOUT_S = 20.0  # of one command; a node of some gigabytes is emptied in a few seconds


def prepare_node(node: RedisNode, run_id: str) -> str:
    """Empties a server, loads the Functions, gives it a name and a new incarnation, which is returned.

    Calls that lie in a server's sockets, such as those that came while it hung, must not run after it was emptied: all
    connections but this one, a fresh one, are closed first. A crash behind any of the steps leaves this:

    1. connections closed: the node as it was. Whoever called it connects again.
    2. emptied: no incarnation, so it refuses every write, and the next look empties it again.
    3. Functions loaded: the same.
    4. name, incarnation and run id written, by one command, and that nothing is built: ready, and empty. The next
       registrar leaves it as it is.

    A server that restarts in between has another run id than the one that is written, and is emptied once more.
    """
    fresh = RedisNode(node.name, node.url, timeout_s=EMPTYING_TIMEOUT_S)
    try:
        fresh.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        fresh.command("FLUSHALL", "SYNC")
        fresh.load_functions()
        incarnation = secrets.token_hex(8)
        fields = ("name", node.name, "incarnation", incarnation, "run_id", run_id)
        fresh.command("HSET", redis_keys.NODE, *fields, "built", 0)
    finally:
        fresh.close()
    return incarnation


def why_empty(found: Found, name: str, missed_a_write: bool) -> str:
    """Why a node must be emptied before it is used; empty when it may stay as it is."""
    if not found.incarnation:
        return "it has no incarnation"
    if found.prepared_in != found.run_id:
        return "it restarted"
    if found.name != name:
        return f"it was prepared as {found.name or 'a node without a name'}"
    return MISSED_A_WRITE if missed_a_write else ""


def must_be_emptied(copies: bytes, name: str, found: Found, is_new: bool) -> bool:
    """Whether a node may have missed a write: it was dropped under the incarnation that it has; or it is new here, and
    was written before under an incarnation that nobody admitted here, as in another deployment.

    What cannot be read, as of a later version, decides nothing: the copies of such a node are not read meanwhile.
    """
    try:
        marks = Copies.decode(copies)
    except UNREADABLE:
        return False
    is_written = found.epoch != ""
    is_foreign = is_new and is_written and marks.incarnations.get(name) != found.incarnation
    return is_foreign or marks.needs_emptying(name, found.incarnation)
