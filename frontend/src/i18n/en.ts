//! English texts; also the type of every other language.

export const en = {
  app: { skip: 'Skip to the content', menu: 'Menu', menuClose: 'Close the menu', navigation: 'Main', signOut: 'Sign out', signedInAs: 'Signed in as {{name}}', starting: 'Starting…' },
  nav: {
    sync: 'Sync', syncHint: 'File Sync',
    runs: 'Runs', runsHint: 'What was synced',
    devices: 'Devices', devicesHint: 'Computers and folders',
    activity: 'Activity', activityHint: 'Everything that happened',
    jobs: 'Jobs', jobsHint: 'What the server works on',
    settings: 'Settings', settingsHint: 'Password, language, theme',
  },
  common: {
    save: 'Save', cancel: 'Cancel', close: 'Close', delete: 'Delete', retry: 'Try again', more: 'Show more', loading: 'Loading…', all: 'All', reveal: 'Show or hide the password',
    never: 'never', none: '—', actionsFor: 'Actions for {{name}}', times: 'Times are in your zone, {{zone}}.',
    lost: 'No connection to the server. Showing what was known last; trying again by itself.',
  },
  signIn: {
    title: 'Sign in', lead: 'Your files, the same everywhere.', name: 'User name', password: 'Password', submit: 'Sign in',
    first: 'First time here? The server printed the password of the user “admin” when it first started.',
  },
  failure: { title: 'That did not work', load: 'This could not be loaded', reference: 'Reference {{id}}', wait: 'Try again in {{time}}.' },
  problems: {
    unreachable: 'The server does not answer. Check the connection and try again.',
    unavailable: 'The server cannot do this just now. Try again in a moment.',
    unexpected: 'The server gave an answer that was not expected.',
    internal: 'Something went wrong on the server. Its log says more.',
    sign_in: { refused: 'User name or password is wrong.', too_many_tries: 'Too many tries.', crowded: 'Too many people sign in just now.' },
    session: { ended: 'Your session has ended. Please sign in again.' },
    password: { length: 'Use 12 to 128 characters.', wrong: 'This is not your current password.' },
    schedule: {
      not_found: 'This schedule is gone.', time_invalid: 'Write a time from 00:00 to 23:59.', timezone_unknown: 'There is no such time zone.', day_of_week_invalid: 'Choose a day of the week.', day_of_month_invalid: 'Choose a day from 1 to 31.',
      jitter_invalid: 'Choose 0 to 3600 seconds.', on_change_unavailable: 'Schedules that run on change are not available yet.', ask_unavailable: 'There is no conflict inbox yet; choose another way.',
    },
    device: {
      not_found: 'This device is gone.', id_invalid: 'Use 1 to 255 characters, none of them control characters.', name_invalid: 'Use 1 to 255 characters, none of them control characters.', base_path_invalid: 'Write a path that starts with “/”, without “.” or “..”.', ignore_invalid: 'One of the rules can’t be read.',
      differs: 'This ID is taken by a device of another kind or another folder.', in_use: 'A run of this device is under way or waits for you. End it first.',
    },
    remote: {
      path_invalid: 'Write an absolute path.', not_allowed: 'This folder is not below one that the server’s operator has allowed (DRIFTLESS_REMOTE_ROOTS).', not_found: 'There is no such folder on the server, or it is not yours to use.', overlaps: 'This folder contains, or lies within, one that is in use already.',
      folder_missing: 'The folder is not there.', folder_replaced: 'Another folder stands in the place of the one that was registered. Nothing was touched.', root_missing: 'The allowed folder above it is not there. Is its disk mounted?', root_not_ours: 'The allowed folder above it is not the one that was registered. Is the right disk mounted?', unreadable: 'The server may not read this folder.',
    },
    run: {
      not_found: 'This run is gone.', wrong_state: 'The run has gone on meanwhile; this can’t be done any more.', device_busy: 'Another run of this device is under way or waits for you.', superseded: 'The run was taken over or has ended.', superseded_by_next: 'The next one came first.', overlap: 'Another run of the device was under way.', late: 'Nothing was there to run it at its time.',
      device_absent: 'The device did not come for it in time.', no_worker: 'No worker could take it within a day.', abandoned: 'It was taken over too often from workers that died.', incomplete: 'Not everything that was planned was done.',
    },
    admin: { required: 'Only an administrator may do this.' },
    job: { not_found: 'This job has ended and is not kept.', not_dead: 'This job is not dead any more.', ended: 'This job has ended already.' },
    cron: { not_found: 'There is no such periodic job any more.' },
    bandwidth: { limit_invalid: 'Write a rate of at least 1 byte per second, or nothing.', hour_invalid: 'Choose an hour.' },
  },
  sync: {
    title: 'File Sync', lead: 'Keep the same files on every device, at the times you choose.',
    register: {
      title: 'Register a device', lead: 'A computer that runs the client, or a folder on this server.', kind: 'What is it?', client: 'Computer', remote: 'Folder on the server',
      id: 'Device ID', idHint: 'A short name that never changes, such as “anna-laptop”.', name: 'Device name', nameHint: 'How it is shown. The ID if left empty.',
      path: 'Folder', pathHint: 'Absolute path on the server, below a folder that its operator has allowed.', base: 'Folder of your files', baseHint: 'The part of your files this device is kept in step with. “/” is everything.',
      more: 'More options', submit: 'Register device', done: '{{name}} is registered.', already: '{{name}} was registered before.',
    },
    create: {
      title: 'Create a schedule', lead: 'When a device is synced, and how.', submit: 'Create schedule', done: 'Schedule created. Next run {{when}}.', device: 'Device', devicePick: 'Choose a device',
      noDevice: 'Register a device first.', type: 'How often', time: 'Time', weekday: 'Day of the week', monthday: 'Day of the month', monthdayHint: 'In a shorter month: its last day.', zone: 'Time zone', zoneNone: 'No such zone',
      deletions: 'Carry deletions over', deletionsHint: 'What is deleted on one side is deleted on the other. Off: it comes back.', conflicts: 'If both sides changed a file', more: 'More options', direction: 'Direction',
      missed: 'If the server was down at that time', overlap: 'If the device is still syncing', jitter: 'Spread the start by up to (seconds)', jitterHint: 'So that many schedules at one minute do not all start at once. 0 to 3600.',
    },
    type: { daily: 'Daily', weekly: 'Weekly', monthly: 'Monthly', on_change: 'On change' },
    policy: { keep_newest: 'Keep the newer one', keep_local: 'Keep the device’s', keep_server: 'Keep the server’s', keep_both: 'Keep both', ask: 'Ask me' },
    direction: { both: 'Both ways', upload: 'Device to server only', download: 'Server to device only' },
    missed: { run_once: 'Run once as soon as possible', skip: 'Leave it out' },
    overlap: { skip: 'Leave it out', queue_one: 'Run right after' },
    rule: { daily: 'Daily at {{time}}', weekly: '{{day}}s at {{time}}', monthly: 'Monthly on day {{day}} at {{time}}', on_change: 'Whenever files change' },
    preview: { title: 'Next five dates', zone: 'Local time in {{zone}}', yours: '{{time}} for you', waiting: 'The next dates appear here as you type.' },
    note: {
      clamped: 'last day', gap: 'moved', fold: 'first of two',
      clampedHint: 'The month is shorter: its last day is taken.', gapHint: 'The clocks skip this time on that day: the first instant after it is taken.', foldHint: 'The clocks show this time twice on that day: the first is taken.',
    },
    limits: {
      title: 'Bandwidth limits', lead: 'So that syncing leaves room for other things.', upload: 'Upload limit', download: 'Download limit', hint: 'For example 1.5 MB/s or 800 KB/s. Empty: no limit.', exact: '{{value}} bytes per second', unlimited: 'No limit',
      invalid: 'Write a rate such as 1.5 MB/s.', throttle: 'Only during these hours', throttleHint: 'Outside them there is no limit.', from: 'From', to: 'To', zone: 'Hours are those of the server’s zone.', submit: 'Save limits', done: 'Limits saved.',
    },
    list: {
      title: 'Active schedules', lead: 'What runs next, and how the last run went.', empty: 'No schedules yet', emptyHint: 'Create one above, and its runs appear here.', next: 'Next run', last: 'Last run', run: 'Run now', dryRun: 'Try without changing anything',
      disable: 'Disable', enable: 'Enable', disabled: 'Disabled', edit: 'Edit', delete: 'Delete', started: 'The run has started.', watch: 'Watch it', notYet: 'Not yet', changed: 'Schedule saved.', enabled: 'Schedule enabled.', disabledDone: 'Schedule disabled.',
      editTitle: 'Edit schedule', deleteTitle: 'Delete this schedule?', deleteText: '“{{rule}}” of {{device}} will not run any more. Its past runs and all files stay.', deleted: 'Schedule deleted.', paused: 'Paused: its runs kept undoing each other.',
    },
  },
  runs: {
    title: 'Runs', lead: 'Every sync: what it did and what it left out.', device: 'Device', state: 'State', empty: 'No runs yet', emptyHint: 'A run appears when a schedule is due, or when you press “Run now” on the Sync page.', toSync: 'Go to Sync',
    emptyFilter: 'No run matches', emptyFilterHint: 'Choose other filters.', started: 'Started', took: 'Took', found: 'Changes', created: 'Created', finished: 'Finished', due: 'Due', attempts: 'Attempts', missedCount: '{{count, number}} dates',
  },
  trigger: { schedule: 'By schedule', manual: 'By hand', on_change: 'On change' },
  state: {
    queued: 'Queued', running: 'Running', waiting_for_device: 'Waiting for device', succeeded: 'Succeeded', failed: 'Failed', cancelled: 'Cancelled', held: 'Held', missed: 'Missed', skipped: 'Left out',
  },
  stateHint: {
    queued: 'A worker takes it up in a moment.', waiting_for_device: 'The device syncs when its client next connects.', held: 'Deletions wait for your decision.', missed: 'It was not run at its time.', skipped: 'Another run of the device was under way.',
    cancelled: 'It was stopped; what was done until then stays.', cancelling: 'Stopping after the current file…',
  },
  run: {
    title: 'Run of {{device}}', dry: 'Dry run', dryHint: 'Nothing was changed. This is what a run would do.', cancel: 'Cancel run', cancelTitle: 'Cancel this run?', cancelText: 'It stops after the current file. What has been synced stays.', cancelDo: 'Cancel run', keep: 'Let it run',
    progress: 'Progress', files: '{{done}} of {{total}} files', bytes: '{{done}} of {{total}}', scanning: 'Comparing both sides…', error: 'The run failed', lastError: 'Last error', facts: 'At a glance', counts: 'What it did',
    plan: 'Plan', planEmpty: 'Nothing to do: both sides agree.', unplanned: 'Left out', unplannedHint: 'These took no action, either way, and nothing of them was deleted.', filter: 'Filter by path',
    of: '{{shown, number}} of {{total, number}}',
    held: {
      title_one: '{{count, number}} deletion waits for you', title_other: '{{count, number}} deletions wait for you', text: 'This run would delete more than usual, so it has deleted nothing. Everything else has been synced. Look at the list, then decide.',
      approve_one: 'Delete this file', approve_other: 'Delete these {{count, number}} files', discard: 'Keep all files', approveTitle: 'Delete these files?', approveText_one: '{{count, number}} file is deleted, exactly the one listed. Versions stay in the history.', approveText_other: '{{count, number}} files are deleted, exactly those listed. Versions stay in the history.',
      discardTitle: 'Keep all files?', discardText: 'The run ends and deletes nothing. Files missing on one side stay missing there until the next run.', list: 'What would be deleted',
      folderTitle: 'The folder waits for you', folderText: 'Nothing was deleted or changed. Put the folder right, then try again.', end: 'End the run',
    },
    action: { upload: 'Upload', download: 'Download', copy: 'Copy', set_metadata: 'Set time', move: 'Move', create_folder: 'New folder', delete: 'Delete', delete_folder: 'Remove folder', delete_device: 'Delete on device', delete_server: 'Delete on server', conflict: 'Conflict' },
    side: { device: 'on device', server: 'on server' },
    kept: { device: 'The device’s stays.', server: 'The server’s stays.', both: 'Both stay.', open: 'Left as it is on both sides.' },
    andMore: 'And {{count, number}} more.', notRun: 'Why it did not run',
    count: { executed: 'Actions', uploaded: 'Uploaded', downloaded: 'Downloaded', deleted_on_device: 'Deleted on device', deleted_on_server: 'Deleted on server', moved: 'Moved', folders: 'Folders', conflicts: 'Conflicts', skipped: 'Left out', bytes_uploaded: 'Sent to server', bytes_downloaded: 'Sent to device' },
    reason: {
      name: { ignored: 'Ignored by rule', not_utf8: 'Name is not UTF-8', clash: 'Two names for one path' },
      file: { link: 'Symbolic link', socket: 'Socket', fifo: 'Named pipe', device: 'Device file', unreadable: 'Cannot be read', unstable: 'Changed while being read' },
      folder: { other_file_system: 'Another disk is mounted here' },
      path: { too_long: 'Path too long', name_too_long: 'Name too long', too_deep: 'Too many folders deep', control: 'Control characters in the name' },
    },
  },
  devices: {
    title: 'Devices', lead: 'What your files are kept in step with.', empty: 'No devices yet', emptyHint: 'Register the first one on the Sync page.', toSync: 'Register a device', client: 'Computer', remote: 'Folder on the server', seen: 'Last seen', pending: 'Pending', pendingCount_one: '{{count, number}} change', pendingCount_other: '{{count, number}} changes',
    conflicts_one: '{{count, number}} conflict', conflicts_other: '{{count, number}} conflicts', inStep: 'In step', base: 'Files', edit: 'Edit', remove: 'Remove', editTitle: 'Edit device', name: 'Name', ignore: 'Ignore rules', ignoreHint: 'One a line, as in .gitignore. What matches is left alone on both sides and never deleted.',
    changed: 'Device saved.', removeTitle: 'Remove {{name}}?', removeText: 'Its schedules end and its access is revoked at once. No file is deleted, neither here nor there.', removed: 'Device removed.',
  },
  activity: {
    title: 'Activity', lead: 'The audit log: who did what, and what happened by itself.', action: 'Action', level: 'Level', levels: { info: 'Info', warning: 'Warning', error: 'Error' }, since: 'Since', empty: 'Nothing here yet', emptyHint: 'Sign-ins, schedule changes and runs appear here.',
    emptyFilter: 'Nothing matches', emptyFilterHint: 'Choose other filters.', details: 'Details', by: 'by {{name}}', byItself: 'by itself',
  },
  jobs: {
    title: 'Jobs', lead: 'What the server works on, what waits, and what went wrong.', refused: 'Only administrators see the jobs', refusedHint: 'They belong to the whole server. Ask an administrator, or look at your own runs.', toRuns: 'Go to your runs',
    queues: {
      title: 'Queues', lead: 'Workers take jobs from these.', empty: 'No queues yet', emptyHint: 'No worker runs and nothing waits. Start one with “driftless serve” or “driftless work”.', ready: 'Waiting', scheduled: 'Later', running: 'Running', dead: 'Dead', age: 'Oldest waits', about: '≈ {{number}}', paused: 'Paused',
      pause: 'Pause', resume: 'Resume', pauseOf: 'Pause {{queue}}', resumeOf: 'Resume {{queue}}', pausedDone: '{{queue}} is paused. What runs, runs on.', resumedDone: '{{queue}} goes on.',
    },
    throughput: { title: 'The last hour', done: 'Done', failed: 'Failed attempts', dead: 'Died', run: 'Average run', wait: 'Average wait', perMinute: 'at most {{count}} in a minute', chart: 'Jobs in each minute of the last hour: {{done}} done, {{failed}} failed attempts.', ago: '1 h ago', now: 'now', minute: '{{time}}: {{done}} done, {{failed}} failed' },
    list: {
      title: 'Jobs', which: 'Which jobs', running: 'Running', waiting: 'Waiting', dead: 'Dead', finished: 'Finished', queue: 'Queue',
      none: { running: 'Nothing runs', waiting: 'Nothing waits', dead: 'No dead jobs', finished: 'No finished jobs' },
      noneHint: { running: 'Jobs appear here while a worker is at them.', waiting: 'Jobs appear here until a worker takes them.', dead: 'Jobs that failed for good appear here with their error.', finished: 'Periodic jobs that were started by hand and cancelled jobs are kept here for 7 days; others go when they are done.' },
      attempt: 'Attempt {{attempt}} of {{max}}', attempts_one: '{{count}} attempt', attempts_other: '{{count}} attempts', due: 'Due', created: 'Created', ended: 'Ended', by: 'By {{worker}}', details: 'Details', lastError: 'Last error', progress: '{{done}} of {{total}}',
      cancel: 'Cancel', cancelOf: 'Cancel job {{id}}', cancelTitle: 'Cancel job {{id}}?', cancelText: 'Its work ends here and is not tried again.', keep: 'Keep it', cancelled: 'Job {{id}} is cancelled.', cancelling: 'Job {{id}} was told to end.',
      retry: 'Retry', retryOf: 'Retry job {{id}}', retried: 'Job {{id}} is queued again.', discard: 'Discard', discardOf: 'Discard job {{id}}', discardTitle: 'Discard job {{id}}?', discardText: 'It will never run again. Its error stays in the activity.', discarded: 'Job {{id}} is discarded.',
    },
    state: { scheduled: 'Later', ready: 'Waiting', running: 'Running', done: 'Done', cancelled: 'Cancelled', dead: 'Dead' },
    crons: { title: 'Periodic jobs', lead: 'Done by themselves, by one worker each time.', empty: 'None yet', emptyHint: 'The first worker that starts makes them known.', last: 'Last', never: 'Never', next: 'Next', minute: 'each minute', day: 'daily at {{time}} {{zone}}', run: 'Run now', runOf: 'Run now: {{name}}', started: '{{name}} is queued.' },
    cron: { cleanup: 'Daily cleanup', rescue_runs: 'Look after stranded runs' },
    workers: { title: 'Workers', lead: 'Processes that do the jobs.', empty: 'No worker runs', emptyHint: 'Nothing is done until one starts: “driftless serve” or “driftless work”.', alive: 'Alive', lost: 'Lost', serves: 'Serves', servesNone: 'no queue', running: 'Running', started: 'Started', lease: 'Lease until', process: 'Process {{pid}} on {{host}}' },
  },
  settings: {
    title: 'Settings', lead: 'Yours alone; kept in this browser, but for the password.', password: 'Password', passwordLead: 'Changing it ends all your other sessions.', current: 'Current password', next: 'New password', nextHint: 'At least 12 characters. A sentence is easy to remember.', again: 'New password once more',
    mismatch: 'The two new passwords differ.', submit: 'Change password', done: 'Password changed. Other sessions have ended.', look: 'Language and look', language: 'Language', theme: 'Theme', light: 'Light', dark: 'Dark', auto: 'As the system', account: 'Account', admin: 'Administrator', member: 'Member', zone: 'Your time zone', zoneHint: 'Taken from this browser.',
  },
  notFound: { title: 'There is no such page', text: 'The address may be mistyped, or what it named is gone.', home: 'Go to Sync' },
  crash: { title: 'This page broke', text: 'A defect of ours. Loading the page again often helps.', reload: 'Load again' },
} as const satisfies Texts

interface Texts { [key: string]: string | Texts }

/** The same keys, any words. */
type Words<T> = { [K in keyof T]: T[K] extends string ? string : Words<T[K]> }
export type Catalogue = Words<typeof en>
