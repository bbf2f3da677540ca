"""How hard the properties are tried."""

from __future__ import annotations

from hypothesis import settings

# No deadline: a busy machine is no defect. With CI set, hypothesis tries the same examples each
# time, and that stays.
settings.register_profile("userlog", settings.default, deadline=None)
settings.load_profile("userlog")
