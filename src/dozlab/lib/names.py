"""Names from users: one place that says which are allowed. Pure."""

from __future__ import annotations

import re

SESSION_ID = re.compile(r"^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?\Z")
"""A DNS label (RFC 1123, section 2.1) of at most 40 characters: prefixes are put before it in object and host names."""
