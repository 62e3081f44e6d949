"""APScheduler at its best: N daily jobs in Postgres, all due at once; prints how many it fires a second.

Settings: one scheduler (it has no second), 20 threads, no coalescing, no misfire limit, jobs that do nothing.
"""

import datetime
import logging
import os
import sys
import threading
import time

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler

import apscheduler_daily as stored  # jobs are stored by the name of their function

fired = 0
lock = threading.Lock()


def nothing():
    with stored.lock:
        stored.fired += 1


def main():
    logging.disable(logging.CRITICAL)
    count = int(sys.argv[1])
    scheduler = BackgroundScheduler(
        jobstores={"default": SQLAlchemyJobStore(url=os.environ["PEER_DATABASE_URL"])},
        executors={"default": ThreadPoolExecutor(20)},
        job_defaults={"misfire_grace_time": None, "coalesce": False, "max_instances": 1},
        timezone=datetime.timezone.utc,
    )
    scheduler.start(paused=True)
    scheduler.remove_all_jobs()
    due = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=1)
    for n in range(count):
        scheduler.add_job(stored.nothing, "interval", days=1, next_run_time=due, id=str(n))
    begin = time.perf_counter()
    scheduler.resume()
    while stored.fired < count and time.perf_counter() - begin < 300:
        time.sleep(0.005)
    took = time.perf_counter() - begin
    scheduler.shutdown(wait=False)
    if stored.fired != count:
        sys.exit(f"fired {stored.fired} of {count}")
    print(count / took)


if __name__ == "__main__":
    main()
