"""Who calls: roles, the tokens that stand for them, and what each role may do.

An operator may do everything. A user runs workloads and drives emulated nodes. An agent registers, renews and reports,
as itself only: its token is made of the secret of the fleet and its own name, so that none can speak for another, and
one that is sent to a wrong address opens nothing else. What a coordinator sends to an agent is that agent's token,
never the token of a person.
"""

import hashlib
import hmac
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

__all__ = ["Caller", "Role", "Tokens", "agent_token", "may_call", "proof_of_address"]

_AGENT_PREFIX: Final = "agent."
_BEARER: Final = b"Bearer "
# What changes nodes for everybody is for operators.
_OPERATORS_ONLY: Final = frozenset(
    {"CordonNode", "UncordonNode", "DrainNode", "LabelNode", "TaintNode", "RemoveNode"}
)
_USER_SERVICES: Final = frozenset(
    {"FleetService", "NodeService", "BpfService", "ProcessService", "CgroupService"}
)
# What runs on an agent's nodes is for all to see; to start and stop it there is for coordinators.
_USER_READS: Final = frozenset({"RuntimeService/ListReplicas"})
_PACKAGE: Final = "bpfleet.v1."


class Role(StrEnum):
    """Whom a token stands for."""

    USER = "user"
    AGENT = "agent"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who shows a token. ``agent`` is the name in the token of an agent."""

    role: Role
    agent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """The tokens that a server takes. ``agent_secret`` is what tokens of agents are made of; the operator's if empty.

    ``own_agent`` is set on an agent: there, its own token opens everything, and those of other agents nothing.
    """

    operator: str
    user: str = ""
    agent_secret: str = ""
    own_agent: str = ""

    def caller(self, given: str | bytes) -> Caller | None:
        """Whom a value of the ``authorization`` header stands for; None where nobody."""
        raw = given if isinstance(given, bytes) else given.encode("utf-8", "surrogateescape")
        if not raw.startswith(_BEARER):
            return None
        token = raw.removeprefix(_BEARER)
        if hmac.compare_digest(token, self.operator.encode()):
            return Caller(Role.OPERATOR)
        if self.user and hmac.compare_digest(token, self.user.encode()):
            return Caller(Role.USER)
        return self._agent(token)

    def _agent(self, token: bytes) -> Caller | None:
        name = _agent_name(token)
        if not name or (self.own_agent and name != self.own_agent):
            return None
        if not hmac.compare_digest(token, self.of_agent(name).encode()):
            return None
        return Caller(Role.AGENT, name)

    def of_agent(self, agent: str) -> str:
        """The token of an agent: what it shows, and what it is shown."""
        return agent_token(self.agent_secret or self.operator, agent)


def agent_token(secret: str, agent: str) -> str:
    """The token of one agent. A secret that is such a token already is one agent's: it is taken as it is."""
    if secret.startswith(_AGENT_PREFIX):
        return secret
    digest = hmac.new(secret.encode(), f"bpfleet agent {agent}".encode(), hashlib.sha256)
    return f"{_AGENT_PREFIX}{agent}.{digest.hexdigest()}"


def _agent_name(token: bytes) -> str:
    try:
        text = token.decode("ascii")
    except UnicodeDecodeError:
        return ""
    return (
        text.removeprefix(_AGENT_PREFIX).rpartition(".")[0]
        if text.startswith(_AGENT_PREFIX)
        else ""
    )


def may_call(caller: Caller, method: str, *, own_agent: str = "") -> bool:
    """Whether a caller may call ``/package.Service/Method``."""
    if caller.role is Role.OPERATOR or (own_agent and caller.agent == own_agent):
        return True
    service, _, name = method.strip("/").partition("/")
    if not service.startswith(_PACKAGE):
        return True  # reflection
    service = service.removeprefix(_PACKAGE)
    if caller.role is Role.AGENT:
        return service == "RegistryService"
    if f"{service}/{name}" in _USER_READS:
        return True
    return service in _USER_SERVICES and name not in _OPERATORS_ONLY


def proof_of_address(token: str, *, nonce: str, agent: str, incarnation: str) -> str:
    """What an agent answers whom asks at its address whether it is there: only who has its token can say it."""
    told = f"{nonce}\n{agent}\n{incarnation}".encode()
    return hmac.new(token.encode(), told, hashlib.sha256).hexdigest()
