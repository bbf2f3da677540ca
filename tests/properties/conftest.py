"""How hard the properties are tried."""

from __future__ import annotations

import os

from hypothesis import settings

# No deadline: a busy machine is no defect. With CI set, hypothesis tries the same examples each
# time, and that stays.
settings.register_profile("userlog", settings.default, deadline=None, max_examples=20)
# For as long as it takes: make property-test
settings.register_profile("thorough", deadline=None, max_examples=1_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "userlog"))
