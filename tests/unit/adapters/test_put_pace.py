"""How large an object may be for one request to S3: as large as arrives within seconds."""

from __future__ import annotations

from cdir_adapters.providers.s3.multipart import MIN_PART
from cdir_adapters.providers.s3.single import MOST_WHOLE, PutPace


def test_what_takes_long_in_one_request_is_sent_in_parts() -> None:
    now = 0.0
    pace = PutPace(clock=lambda: now)
    assert pace.whole == MOST_WHOLE
    with pace.measured(1000):
        now += 10.0
    assert pace.whole == MOST_WHOLE, "a small request says nothing of the line"
    with pace.measured(9_000_000):
        now += 3.0
    assert pace.whole == 12_000_000
    for _ in range(30):
        with pace.measured(MIN_PART):
            now += 8.0
    assert pace.whole == MIN_PART
    for _ in range(30):
        with pace.measured(MIN_PART):
            now += 0.1
    assert pace.whole == MOST_WHOLE
