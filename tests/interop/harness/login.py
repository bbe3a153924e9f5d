"""A client that logs in as container tools do: asks, takes the challenge, gets a token or shows its password, asks again."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from registry_proxy.plan.challenges import parse_challenges
from tests.interop.harness.guarded import Answer, exchange
from tests.interop.harness.registries import basic


@dataclass(frozen=True, slots=True)
class Client:
    """Somebody with an account, or (no name) without one. `unasked`: shows its password before anybody asks for it."""

    name: str = ""
    password: str = ""
    unasked: bool = False

    @property
    def own(self) -> dict[str, str]:
        """What it shows to whom asks for Basic."""
        return {"Authorization": basic(self.name, self.password)} if self.name else {}

    def get(self, url: str, headers: Mapping[str, str] | None = None) -> Answer:
        """The answer after at most one login; the refusal, if logging in fails."""
        shown = self.own if self.unasked else {}
        first = exchange("GET", url, {**(headers or {}), **shown})
        if first.status != 401:
            return first
        authorization = self.login(first)
        return exchange("GET", url, {**(headers or {}), **authorization}) if authorization else first

    def login(self, refusal: Answer) -> dict[str, str]:
        """The Authorization that a challenge asks for; empty if it cannot be had."""
        told = [value for name, value in refusal.headers.items() if name.lower() == "www-authenticate"]
        for challenge in parse_challenges(told):
            if challenge.scheme == "basic":
                return self.own
            if challenge.scheme == "bearer":
                query = {key: value for key, value in challenge.parameters.items() if key in {"service", "scope"}}
                answer = exchange("GET", f"{challenge.parameters['realm']}?{urlencode(query)}", self.own)
                if answer.status == 200:
                    said = json.loads(answer.body)
                    return {"Authorization": f"Bearer {said.get('token') or said['access_token']}"}
        return {}
