"""The instants of schedules as Python's zoneinfo sees them: the other side of cadence_zoneinfo.rs.

Reads zone names, one a line; answers one line of JSON for each:
  {"zone": ..., "chains": [digest of each rule of CHAINS], "around": [day numbers], "changes": digest}
A digest is the SHA-256 of little-endian 64-bit pairs (day number since 1970, seconds since 1970), one per firing. A chain
takes in all nominal dates from 1970 to 2099; "changes" the dates around each change of offset ("around"), at each of TIMES.
Only the zone data is shared with the tested code: that of the PyPI package tzdata.
"""

import array
import calendar
import hashlib
import json
import multiprocessing
import os
import pathlib
import sys
import zoneinfo
from datetime import date, datetime, timedelta, timezone

import tzdata

EPOCH = date(1970, 1, 1).toordinal()
LAST = date(2099, 12, 31).toordinal()
NAIVE_EPOCH = datetime(1970, 1, 1)
SECOND = timedelta(seconds=1)
TIMES = [(0, 0), (0, 15), (0, 59), (1, 0), (1, 30), (1, 59), (2, 0), (2, 30), (3, 0), (12, 0), (23, 30), (23, 59)]


def daily():
    return range(EPOCH, LAST + 1)


def weekly(weekday):
    return (day for day in daily() if date.fromordinal(day).weekday() == weekday)


def monthly(wanted):
    for year in range(1970, 2100):
        for month in range(1, 13):
            yield date(year, month, min(wanted, calendar.monthrange(year, month)[1])).toordinal()


# The same list stands in cadence_zoneinfo.rs.
CHAINS = [(lambda: daily(), 2, 30), (lambda: weekly(6), 0, 0), (lambda: monthly(31), 1, 59), (lambda: monthly(1), 0, 30)]


def first_instant(day, hour, minute, zone):
    """Seconds since 1970 of the firing on this local date, or None when the zone never had the date."""
    wall = datetime.fromordinal(day).replace(hour=hour, minute=minute)
    seconds = (day - EPOCH) * 86400 + hour * 3600 + minute * 60
    before = zone.utcoffset(wall)
    after = zone.utcoffset(wall.replace(fold=1))
    if before >= after:  # an ordinary time, or a repeated one: the first of both
        return seconds - before // SECOND
    # Skipped: search the instant of the change between the two readings.
    low, high = seconds - after // SECOND, seconds - before // SECOND
    while high - low > 1:
        middle = (low + high) // 2
        if datetime.fromtimestamp(middle, zone).utcoffset() == before:
            low = middle
        else:
            high = middle
    last_before = NAIVE_EPOCH + timedelta(seconds=low) + before
    first_after = NAIVE_EPOCH + timedelta(seconds=high) + after
    return high if day in (last_before.toordinal(), first_after.toordinal()) else None


def digest(days, hour, minute, zone, into):
    for day in days:
        instant = first_instant(day, hour, minute, zone)
        if instant is not None:
            into.extend((day - EPOCH, instant))


def sha256(numbers):
    if sys.byteorder == "big":
        numbers.byteswap()
    return hashlib.sha256(numbers.tobytes()).hexdigest()


def changes(zone):
    """Dates at and beside each change of offset."""
    around = set()
    last = None
    for day in daily():
        offset = zone.utcoffset(datetime.fromordinal(day))
        if last is not None and offset != last:
            around.update(range(max(day - 2, EPOCH), min(day + 1, LAST) + 1))
        last = offset
    return sorted(around)


def answer(name):
    zone = zoneinfo.ZoneInfo(name)
    chains = []
    for days, hour, minute in CHAINS:
        numbers = array.array("q")
        digest(days(), hour, minute, zone, numbers)
        chains.append(sha256(numbers))
    around = changes(zone)
    numbers = array.array("q")
    for hour, minute in TIMES:
        digest(around, hour, minute, zone, numbers)
    return {"chains": chains, "around": [day - EPOCH for day in around], "changes": sha256(numbers)}


def main():
    if zoneinfo.TZPATH:
        sys.exit("PYTHONTZPATH must be empty, so that the zone data is that of the package tzdata")
    if tzdata.IANA_VERSION != sys.argv[1]:
        sys.exit(f"zone data {sys.argv[1]} is wanted, but the package tzdata holds {tzdata.IANA_VERSION}")
    # Many names are links: equal bytes need one computation here, while the other side computes each name.
    folder = pathlib.Path(tzdata.__file__).parent / "zoneinfo"
    same = {}
    for name in sys.stdin.read().split():
        same.setdefault((folder / name).read_bytes(), []).append(name)
    with multiprocessing.Pool(os.cpu_count()) as pool:
        groups = list(same.values())
        for names, found in zip(groups, pool.imap(answer, [names[0] for names in groups], chunksize=4)):
            for name in names:
                print(json.dumps({"zone": name} | found), flush=True)


if __name__ == "__main__":
    main()
