//! A schedule while it is being written, and what of it goes to the server.
import type { Cadence, ConflictPolicy, CreateSchedule, MissedRunPolicy, OverlapPolicy, Schedule, SyncDirection } from '../../api/generated'
import { userZone } from '../../format/time'

/** `create_version` is another word for `keep_both`, which the server never answers. */
type Policy = Exclude<ConflictPolicy, 'create_version'>

export interface Draft {
  schedule_type: Cadence
  time_of_day: string
  day_of_week: number
  day_of_month: number
  timezone: string
  sync_deletions: boolean
  resolve_conflicts: Policy
  direction: SyncDirection
  missed_run: MissedRunPolicy
  overlap: OverlapPolicy
  jitter_seconds: number
}

/** What the server accepts today; `on_change` and `ask` join when it does. */
export const TYPES: readonly Cadence[] = ['daily', 'weekly', 'monthly']
export const POLICIES: readonly Policy[] = ['keep_newest', 'keep_local', 'keep_server', 'keep_both']
export const DIRECTIONS: readonly SyncDirection[] = ['both', 'upload', 'download']
export const MISSED: readonly MissedRunPolicy[] = ['run_once', 'skip']
export const OVERLAPS: readonly OverlapPolicy[] = ['skip', 'queue_one']

export function newDraft(): Draft {
  return {
    schedule_type: 'daily', time_of_day: '02:00', day_of_week: 0, day_of_month: 1, timezone: userZone, sync_deletions: true,
    resolve_conflicts: 'keep_newest', direction: 'both', missed_run: 'run_once', overlap: 'skip', jitter_seconds: 0,
  }
}

export function draftOf(schedule: Schedule): Draft {
  const { schedule_type, time_of_day, day_of_week, day_of_month, timezone, sync_deletions, resolve_conflicts, direction, missed_run, overlap, jitter_seconds } = schedule
  return { schedule_type, time_of_day: time_of_day.slice(0, 5), day_of_week, day_of_month, timezone, sync_deletions, resolve_conflicts: resolve_conflicts === 'create_version' ? 'keep_both' : resolve_conflicts, direction, missed_run, overlap, jitter_seconds }
}

export const toCreate = (device_id: string, draft: Draft): CreateSchedule => ({ device_id, ...draft })
