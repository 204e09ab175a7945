"""The product's mark, drawn once: as the pages' icon and beside their name."""

from __future__ import annotations

from urllib.parse import quote

# A tuning fork, ringing
MARK = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" width="24" height="24" fill="none" '
    'stroke="{colour}" stroke-width="2.2" stroke-linecap="round" aria-hidden="true">'
    '<path d="M8.5 3v6.5a3.5 3.5 0 0 0 7 0V3M12 13v8M4.5 5v4M19.5 5v4"/></svg>'
)
ICON = "data:image/svg+xml," + quote(MARK.format(colour="#4f46e5"))
