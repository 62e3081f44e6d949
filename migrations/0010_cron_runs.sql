-- When a periodic job was last queued, by its tick or by a person; null: never. last_tick does not tell: a cron that is registered
-- for the first time has missed nothing, so its last tick is the time of that. Ticks fall on full minutes.
alter table queue.crons add column last_run timestamptz;
update queue.crons set last_run = last_tick where last_tick = date_trunc('minute', last_tick);
