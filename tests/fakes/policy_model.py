"""What policies promise, in plain dictionaries: written from ``docs/policies.md`` and RFC 9111, and from no code.

A *request* is a dict of ``token``, ``profile``, ``model``, ``input``, ``namespace``, ``key``, ``pool`` and ``cc`` (its
``Cache-Control`` as a dict from directive to seconds, or to ``None`` for a bare word). A *policy* is a dict as it
stands in ``hotplate.toml``. A *place* is what one result is stored under: what the answer depends on, and which
answer of a pool it is. Every run gives another output, so what was served says which run made it.
"""

from __future__ import annotations

import json
import math
from fnmatch import fnmatchcase
from typing import Any

Doc = dict[str, Any]
Place = tuple[str, int]

WEEK_S = 7 * 86_400
PASSING = (429, 500, 502, 503, 504)

IDENTITIES = {
    "acme/pixel": ["version 1"],
    "acme/chat": ["version 2"],
    "acme/hidden": ["acme/hidden", "hidden"],
    "deployments/acme/pixel": ["deployments/acme/pixel", "hidden"],
    "": ["version 1"],
}
"""What tells models apart: a pinned version names its model by itself. ``""`` is a request of the version alone."""


class Rules:
    """The world as the documents describe it.

    Attributes:
        book: the policies that hold now, in order.
        is_bypassed: the kill switch.
        refusal: the status with which the upstream refuses every create now.
        stored: by place, the run that made what is stored there, when that ended, and the request that caused it.
        flights: by run, what is under way.
        asked: how many creates the upstream has been asked for.
    """

    def __init__(self, book: list[Doc]) -> None:
        self.now = 0.0
        self.book = book
        self.is_bypassed = False
        self.refusal: int | None = None
        self.stored: dict[Place, Doc] = {}
        self.flights: dict[int, Doc] = {}
        self.asked = 0

    # -- which policy, and what is left of the request --------------------------------------------------

    def policy(self, request: Doc) -> Doc | None:
        """The first policy that matches, of the profile's own before those without a name."""
        named = [one for one in self.book if one.get("name") and one["name"] == request["profile"]]
        for one in (*named, *(one for one in self.book if not one.get("name"))):
            globs = one.get("models", ["*"])
            if "*" in globs:
                return one
            if not request["model"]:
                return None
            if any(fnmatchcase(request["model"], glob) for glob in globs):
                return one
        return {}

    def plan(self, request: Doc) -> Doc:
        """How a request uses the cache: ``{"error": status}``, or ``{"bypass": reason}``, or what it may do."""
        found = self.policy(request)
        policy, cc = found or {}, dict(request["cc"])
        forbidden = policy.get("forbid", [])
        asked = {"namespace": request["namespace"], "key": request["key"], "pool": request["pool"]}
        if any(asked[word] for word in asked if word in forbidden):
            return {"error": 403}
        if any(word in cc for word in ("no-store", "only-if-cached") if word in forbidden):
            return {"error": 403}
        cc = {word: value for word, value in cc.items() if word not in forbidden}
        plan: Doc = {"policy": policy, "cc": cc, "only": "only-if-cached" in cc, "request": request}
        mode = policy.get("mode", "on")
        bypass = None
        if self.is_bypassed:
            bypass = "off"
        elif found is None:
            bypass = "unknown-model"
        elif mode in ("off", "observe"):
            bypass = mode
        elif "no-store" in cc:
            bypass = "request"
        places = self._pool(policy, request)
        if bypass is None and places == 0:
            bypass = "seedless"
        if bypass is not None:
            return {**plan, "bypass": bypass, "stores": False}
        wants_new = "no-cache" in cc or cc.get("max-age") == 0
        return {
            **plan,
            "bypass": None,
            "looks": not wants_new and mode in ("on", "read_only"),
            "shares": not wants_new and mode != "write_only",
            "stores": mode != "read_only",
            "places": [(self._depends_on(policy, request), number) for number in range(places)],
        }

    @staticmethod
    def _pool(policy: Doc, request: Doc) -> int:
        seed = request["input"].get("seed")
        if seed is not None and seed not in policy.get("random_seeds", [-1]):
            return 1
        if request["pool"]:
            return int(request["pool"])
        word, _, number = policy.get("seedless", "reuse").partition(":")
        return {"reuse": 1, "bypass": 0, "pool": int(number or 0)}[word]

    @staticmethod
    def _depends_on(policy: Doc, request: Doc) -> str:
        ignore, only = policy.get("ignore", []), policy.get("only")
        kept = {
            name: value
            for name, value in request["input"].items()
            if name not in ignore and (only is None or name in only)
        }
        rule = [sorted(ignore), only] if ignore or only is not None else None
        # Nobody tells this world of accounts, so a token stands for its own.
        sharers = "everybody" if policy.get("scope") == "shared" else request["token"]
        who = [sharers, request["namespace"], request["key"], IDENTITIES[request["model"]]]
        return json.dumps([who, rule, kept], sort_keys=True)

    # -- how old ----------------------------------------------------------------------------------------

    @staticmethod
    def lifetime_s(plan: Doc) -> float:
        is_pinned = plan["request"]["model"] in ("acme/pixel", "acme/chat", "")
        ttl_s = plan["policy"].get("ttl_s")
        return float(ttl_s) if ttl_s is not None else math.inf if is_pinned else WEEK_S

    def good_for(self, place: Place, plan: Doc) -> str | None:
        """What a stored result is good for: ``fresh``, ``revalidate``, ``if-error``, or nothing."""
        stored, cc, policy = self.stored.get(place), plan["cc"], plan["policy"]
        if stored is None or not plan["looks"]:
            return None
        age_s, lifetime_s = self.now - stored["at"], self.lifetime_s(plan)
        if age_s > cc.get("max-age", math.inf) or age_s + cc.get("min-fresh", -math.inf) > lifetime_s:
            return None
        if age_s < lifetime_s:
            return "fresh"
        late_s = age_s - lifetime_s
        if "max-stale" in cc and (cc["max-stale"] is None or late_s <= cc["max-stale"]):
            return "fresh"
        if any(word in cc for word in ("no-cache", "max-age", "min-fresh", "max-stale")):
            return None
        if late_s < policy.get("stale_while_revalidate_s", 0):
            return "revalidate"
        return "if-error" if late_s < policy.get("stale_if_error_s", 0) else None

    # -- what a create must come to ----------------------------------------------------------------------

    def joinable(self, place: Place, *, is_refresh: bool) -> int | None:
        """The run under way that may be shared there."""
        for run, flight in self.flights.items():
            if flight["place"] == place and flight["joins"] and flight["refresh"] is is_refresh:
                return run
        return None

    def expect(self, plan: Doc) -> Doc:
        """The outcomes that are right: ``kind`` and the places, or runs, that may be meant."""
        if plan["bypass"] is not None:
            return {"kind": "not cached"} if plan["only"] else {"kind": "lead", "places": [None]}
        good = {place: self.good_for(place, plan) for place in plan["places"]}
        servable = [place for place, grade in good.items() if grade in ("fresh", "revalidate")]
        if plan["only"]:
            return {"kind": "hit", "places": servable} if servable else {"kind": "not cached"}
        running = [
            place
            for place in plan["places"]
            if place not in servable
            and plan["shares"]
            and self.joinable(place, is_refresh=not plan["looks"]) is not None
        ]
        empty = [place for place in plan["places"] if place not in servable and place not in running]
        if not empty:
            return {"kind": "hit or join", "places": servable, "running": running}
        if self.refusal is None:
            return {"kind": "lead", "places": empty}
        stand_ins = [place for place, grade in good.items() if grade is not None]
        if stand_ins and self.refusal in PASSING and plan["policy"].get("stale_if_error_s", 0) > 0:
            return {"kind": "stale", "places": stand_ins}
        return {"kind": "error"}

    def refreshes(self, place: Place, plan: Doc) -> bool:
        """Whether a hit has a new run made behind it."""
        is_due = self.good_for(place, plan) == "revalidate" and plan["stores"] and not plan["only"]
        return is_due and self.joinable(place, is_refresh=True) is None

    def began(self, run: int, plan: Doc, place: Place | None, *, behind: bool = False) -> Doc:
        """A run is under way; one that was begun ``behind`` an answer is wanted by nobody and cancelled by nobody."""
        self.flights[run] = {
            "place": place,
            "plan": plan,
            "refresh": behind or (place is not None and not plan["looks"]),
            "joins": place is not None and plan["shares"],
            "behind": behind,
            "waits": set(),
        }
        return self.flights[run]

    def ended(self, run: int, how: str) -> bool:
        """A run has ended; whether its result is stored now."""
        flight = self.flights.pop(run)
        plan, place = flight["plan"], flight["place"]
        is_kept = how == "files" or (how == "text" and self._keeps_text(plan))
        if place is None or not plan["stores"] or not is_kept:
            return False
        self.stored[place] = {"run": run, "at": self.now, "request": plan["request"]}
        return True

    @staticmethod
    def _keeps_text(plan: Doc) -> bool:
        policy, given = plan["policy"], plan["request"]["input"]
        word = policy.get("cache_text", "deterministic")
        seed = given.get("seed")
        is_same_again = given.get("temperature") == 0 or (
            seed is not None and seed not in policy.get("random_seeds", [-1])
        )
        return word == "on" or (word == "deterministic" and is_same_again)
