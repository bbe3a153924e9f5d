"""The page for whoever opens the address in a browser: state, store, upstreams, tiers and sources, and how to pull through it.

It shows what ``/stats`` and ``/readyz`` say, and asks them again every few seconds. Everything it needs is in it, and its content
security policy lets it load nothing else.
"""

import base64
import hashlib
import re
from importlib.resources import files
from typing import Final


def _hashes(page: str, tag: str) -> str:
    """The inline elements of that tag, as a content security policy names them (CSP level 3, §2.3.1)."""
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in found)


_PAGE: Final = files("registry_proxy.web").joinpath("page.html").read_text(encoding="utf-8")
BODY: Final = _PAGE.encode()
HEADERS: Final = (
    ("Content-Type", "text/html; charset=utf-8"),
    ("Cache-Control", "no-cache"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    (
        "Content-Security-Policy",
        f"default-src 'none'; connect-src 'self'; script-src {_hashes(_PAGE, 'script')}; "
        f"style-src {_hashes(_PAGE, 'style')}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
)
