//! German texts.
import type { Catalogue } from './en'

export const de: Catalogue = {
  app: { skip: 'Zum Inhalt springen', menu: 'Menü', menuClose: 'Menü schließen', navigation: 'Hauptmenü', signOut: 'Abmelden', signedInAs: 'Angemeldet als {{name}}', starting: 'Startet…' },
  nav: {
    sync: 'Sync', syncHint: 'Dateien abgleichen',
    runs: 'Läufe', runsHint: 'Was abgeglichen wurde',
    devices: 'Geräte', devicesHint: 'Rechner und Ordner',
    activity: 'Protokoll', activityHint: 'Alles, was geschehen ist',
    jobs: 'Jobs', jobsHint: 'Woran der Server arbeitet',
    settings: 'Einstellungen', settingsHint: 'Passwort, Sprache, Aussehen',
  },
  common: {
    save: 'Speichern', cancel: 'Abbrechen', close: 'Schließen', delete: 'Löschen', retry: 'Erneut versuchen', more: 'Mehr zeigen', loading: 'Lädt…', all: 'Alle', reveal: 'Passwort zeigen oder verbergen',
    never: 'nie', none: '—', actionsFor: 'Aktionen für {{name}}', times: 'Zeiten in deiner Zone, {{zone}}.',
    lost: 'Keine Verbindung zum Server. Zu sehen ist der letzte bekannte Stand; es wird von selbst weiter versucht.',
  },
  signIn: {
    title: 'Anmelden', lead: 'Deine Dateien, überall dieselben.', name: 'Benutzername', password: 'Passwort', submit: 'Anmelden',
    first: 'Zum ersten Mal hier? Beim ersten Start hat der Server das Passwort des Benutzers „admin“ ausgegeben.',
  },
  failure: { title: 'Das hat nicht geklappt', load: 'Das konnte nicht geladen werden', reference: 'Kennung {{id}}', wait: 'Versuche es in {{time}} wieder.' },
  problems: {
    unreachable: 'Der Server antwortet nicht. Prüfe die Verbindung und versuche es erneut.',
    unavailable: 'Der Server kann das gerade nicht. Versuche es gleich noch einmal.',
    unexpected: 'Der Server hat etwas Unerwartetes geantwortet.',
    internal: 'Auf dem Server ist etwas schiefgegangen. Sein Log sagt mehr.',
    sign_in: { refused: 'Benutzername oder Passwort ist falsch.', too_many_tries: 'Zu viele Versuche.', crowded: 'Gerade melden sich zu viele zugleich an.' },
    session: { ended: 'Die Sitzung ist zu Ende. Bitte melde dich neu an.' },
    password: { length: 'Nimm 12 bis 128 Zeichen.', wrong: 'Das ist nicht dein bisheriges Passwort.' },
    schedule: {
      not_found: 'Diesen Zeitplan gibt es nicht mehr.', time_invalid: 'Schreibe eine Uhrzeit von 00:00 bis 23:59.', timezone_unknown: 'Diese Zeitzone gibt es nicht.', day_of_week_invalid: 'Wähle einen Wochentag.', day_of_month_invalid: 'Wähle einen Tag von 1 bis 31.',
      jitter_invalid: 'Wähle 0 bis 3600 Sekunden.', on_change_unavailable: 'Zeitpläne, die bei Änderung laufen, gibt es noch nicht.', ask_unavailable: 'Den Konflikt-Eingang gibt es noch nicht; wähle etwas anderes.',
    },
    device: {
      not_found: 'Dieses Gerät gibt es nicht mehr.', id_invalid: 'Nimm 1 bis 255 Zeichen, keine Steuerzeichen.', name_invalid: 'Nimm 1 bis 255 Zeichen, keine Steuerzeichen.', base_path_invalid: 'Schreibe einen Pfad, der mit „/“ beginnt, ohne „.“ und „..“.', ignore_invalid: 'Eine der Regeln ist nicht lesbar.',
      differs: 'Diese ID gehört schon einem Gerät anderer Art oder mit anderem Ordner.', in_use: 'Ein Lauf dieses Geräts ist im Gange oder wartet auf dich. Beende ihn zuerst.',
    },
    remote: {
      path_invalid: 'Schreibe einen absoluten Pfad.', not_allowed: 'Dieser Ordner liegt nicht unter einem, den der Betreiber des Servers erlaubt hat (DRIFTLESS_REMOTE_ROOTS).', not_found: 'Den Ordner gibt es auf dem Server nicht, oder er steht dir nicht zu.', overlaps: 'Dieser Ordner enthält einen, der schon benutzt wird, oder liegt in einem.',
      folder_missing: 'Der Ordner ist nicht da.', folder_replaced: 'An der Stelle des angemeldeten Ordners steht ein anderer. Nichts wurde angerührt.', root_missing: 'Der erlaubte Ordner darüber ist nicht da. Ist seine Platte eingehängt?', root_not_ours: 'Der erlaubte Ordner darüber ist nicht der angemeldete. Ist die richtige Platte eingehängt?', unreadable: 'Der Server darf diesen Ordner nicht lesen.',
    },
    run: {
      not_found: 'Diesen Lauf gibt es nicht mehr.', wrong_state: 'Der Lauf ist inzwischen weiter; das geht nicht mehr.', device_busy: 'Ein anderer Lauf dieses Geräts ist im Gange oder wartet auf dich.', superseded: 'Der Lauf wurde übernommen oder ist zu Ende.', superseded_by_next: 'Der nächste kam zuvor.', overlap: 'Ein anderer Lauf des Geräts war im Gange.', late: 'Zu seiner Zeit war nichts da, was ihn ausführen konnte.',
      device_absent: 'Das Gerät holte ihn nicht rechtzeitig ab.', no_worker: 'Einen Tag lang konnte ihn kein Worker übernehmen.', abandoned: 'Zu oft starb der Worker, der ihn hatte.', incomplete: 'Nicht alles Geplante wurde getan.',
    },
    admin: { required: 'Das darf nur ein Administrator.' },
    job: { not_found: 'Dieser Job ist beendet und wird nicht aufbewahrt.', not_dead: 'Dieser Job ist nicht mehr gescheitert.', ended: 'Dieser Job ist schon beendet.' },
    cron: { not_found: 'Diesen regelmäßigen Job gibt es nicht mehr.' },
    bandwidth: { limit_invalid: 'Schreibe eine Rate von mindestens 1 Byte pro Sekunde oder nichts.', hour_invalid: 'Wähle eine Stunde.' },
  },
  sync: {
    title: 'Dateien abgleichen', lead: 'Auf jedem Gerät dieselben Dateien, zu den Zeiten, die du wählst.',
    register: {
      title: 'Gerät anmelden', lead: 'Ein Rechner mit dem Client oder ein Ordner auf diesem Server.', kind: 'Was ist es?', client: 'Rechner', remote: 'Ordner auf dem Server',
      id: 'Geräte-ID', idHint: 'Ein kurzer Name, der sich nie ändert, etwa „anna-laptop“.', name: 'Gerätename', nameHint: 'So wird es angezeigt. Leer: die ID.',
      path: 'Ordner', pathHint: 'Absoluter Pfad auf dem Server, unterhalb eines vom Betreiber erlaubten Ordners.', base: 'Ordner deiner Dateien', baseHint: 'Der Teil deiner Dateien, mit dem das Gerät abgeglichen wird. „/“ heißt alles.',
      more: 'Weitere Angaben', submit: 'Gerät anmelden', done: '{{name}} ist angemeldet.', already: '{{name}} war schon angemeldet.',
    },
    create: {
      title: 'Zeitplan anlegen', lead: 'Wann ein Gerät abgeglichen wird und wie.', submit: 'Zeitplan anlegen', done: 'Zeitplan angelegt. Nächster Lauf {{when}}.', device: 'Gerät', devicePick: 'Gerät wählen',
      noDevice: 'Melde zuerst ein Gerät an.', type: 'Wie oft', time: 'Uhrzeit', weekday: 'Wochentag', monthday: 'Tag im Monat', monthdayHint: 'In kürzeren Monaten: der letzte Tag.', zone: 'Zeitzone', zoneNone: 'Diese Zone gibt es nicht',
      deletions: 'Löschungen übernehmen', deletionsHint: 'Was auf einer Seite gelöscht wird, wird auch auf der anderen gelöscht. Aus: Es kommt zurück.', conflicts: 'Wenn beide Seiten eine Datei geändert haben', more: 'Weitere Angaben', direction: 'Richtung',
      missed: 'Wenn der Server zu der Zeit aus war', overlap: 'Wenn das Gerät noch abgleicht', jitter: 'Start verteilen über bis zu (Sekunden)', jitterHint: 'Damit viele Zeitpläne derselben Minute nicht zugleich beginnen. 0 bis 3600.',
    },
    type: { daily: 'Täglich', weekly: 'Wöchentlich', monthly: 'Monatlich', on_change: 'Bei Änderung' },
    policy: { keep_newest: 'Die neuere behalten', keep_local: 'Die des Geräts behalten', keep_server: 'Die des Servers behalten', keep_both: 'Beide behalten', ask: 'Mich fragen' },
    direction: { both: 'In beide Richtungen', upload: 'Nur vom Gerät zum Server', download: 'Nur vom Server zum Gerät' },
    missed: { run_once: 'So bald wie möglich einmal nachholen', skip: 'Auslassen' },
    overlap: { skip: 'Auslassen', queue_one: 'Gleich danach beginnen' },
    rule: { daily: 'Täglich um {{time}}', weekly: '{{day}}s um {{time}}', monthly: 'Monatlich am {{day}}. um {{time}}', on_change: 'Sobald sich Dateien ändern' },
    preview: { title: 'Die nächsten fünf Termine', zone: 'Ortszeit in {{zone}}', yours: '{{time}} bei dir', waiting: 'Die nächsten Termine erscheinen hier beim Tippen.' },
    note: {
      clamped: 'letzter Tag', gap: 'verschoben', fold: 'erstes von zweien',
      clampedHint: 'Der Monat ist kürzer: Es gilt sein letzter Tag.', gapHint: 'Diese Uhrzeit wird an dem Tag übersprungen: Es gilt der erste Augenblick danach.', foldHint: 'Diese Uhrzeit gibt es an dem Tag zweimal: Es gilt das erste Mal.',
    },
    limits: {
      title: 'Bandbreite begrenzen', lead: 'Damit der Abgleich Platz für anderes lässt.', upload: 'Hochladen höchstens', download: 'Herunterladen höchstens', hint: 'Zum Beispiel 1,5 MB/s oder 800 KB/s. Leer: keine Grenze.', exact: '{{value}} Byte pro Sekunde', unlimited: 'Keine Grenze',
      invalid: 'Schreibe eine Rate wie 1,5 MB/s.', throttle: 'Nur zu diesen Stunden', throttleHint: 'Außerhalb davon gilt keine Grenze.', from: 'Von', to: 'Bis', zone: 'Es gelten die Stunden in der Zone des Servers.', submit: 'Grenzen speichern', done: 'Grenzen gespeichert.',
    },
    list: {
      title: 'Aktive Zeitpläne', lead: 'Was als Nächstes läuft und wie der letzte Lauf ausging.', empty: 'Noch keine Zeitpläne', emptyHint: 'Lege oben einen an, dann erscheinen hier seine Läufe.', next: 'Nächster Lauf', last: 'Letzter Lauf', run: 'Jetzt starten', dryRun: 'Ausprobieren, ohne etwas zu ändern',
      disable: 'Ausschalten', enable: 'Einschalten', disabled: 'Ausgeschaltet', edit: 'Bearbeiten', delete: 'Löschen', started: 'Der Lauf hat begonnen.', watch: 'Zusehen', notYet: 'Noch keiner', changed: 'Zeitplan gespeichert.', enabled: 'Zeitplan eingeschaltet.', disabledDone: 'Zeitplan ausgeschaltet.',
      editTitle: 'Zeitplan bearbeiten', deleteTitle: 'Diesen Zeitplan löschen?', deleteText: '„{{rule}}“ von {{device}} läuft dann nicht mehr. Frühere Läufe und alle Dateien bleiben.', deleted: 'Zeitplan gelöscht.', paused: 'Angehalten: Seine Läufe machten einander immer wieder rückgängig.',
    },
  },
  runs: {
    title: 'Läufe', lead: 'Jeder Abgleich: was er tat und was er ausließ.', device: 'Gerät', state: 'Zustand', empty: 'Noch keine Läufe', emptyHint: 'Ein Lauf erscheint, wenn ein Zeitplan fällig ist oder wenn du auf der Seite Sync „Jetzt starten“ drückst.', toSync: 'Zu Sync',
    emptyFilter: 'Kein Lauf passt', emptyFilterHint: 'Wähle andere Filter.', started: 'Begonnen', took: 'Dauer', found: 'Änderungen', created: 'Angelegt', finished: 'Beendet', due: 'Fällig', attempts: 'Versuche', missedCount: '{{count, number}} Termine',
  },
  trigger: { schedule: 'Nach Plan', manual: 'Von Hand', on_change: 'Bei Änderung' },
  state: {
    queued: 'Wartet', running: 'Läuft', waiting_for_device: 'Wartet auf Gerät', succeeded: 'Gelungen', failed: 'Gescheitert', cancelled: 'Abgebrochen', held: 'Angehalten', missed: 'Versäumt', skipped: 'Ausgelassen',
  },
  stateHint: {
    queued: 'Gleich nimmt ein Worker ihn auf.', waiting_for_device: 'Das Gerät gleicht ab, sobald sein Client sich wieder meldet.', held: 'Löschungen warten auf deine Entscheidung.', missed: 'Er lief nicht zu seiner Zeit.', skipped: 'Ein anderer Lauf des Geräts war noch im Gange.',
    cancelled: 'Er wurde abgebrochen; was bis dahin geschah, bleibt.', cancelling: 'Hält nach der laufenden Datei an…',
  },
  run: {
    title: 'Lauf von {{device}}', dry: 'Probelauf', dryHint: 'Nichts wurde geändert. Das würde ein Lauf tun.', cancel: 'Lauf abbrechen', cancelTitle: 'Diesen Lauf abbrechen?', cancelText: 'Er hält nach der laufenden Datei an. Was abgeglichen ist, bleibt.', cancelDo: 'Lauf abbrechen', keep: 'Weiterlaufen lassen',
    progress: 'Fortschritt', files: '{{done}} von {{total}} Dateien', bytes: '{{done}} von {{total}}', scanning: 'Vergleicht beide Seiten…', error: 'Der Lauf ist gescheitert', lastError: 'Letzter Fehler', facts: 'Auf einen Blick', counts: 'Was er tat',
    plan: 'Plan', planEmpty: 'Nichts zu tun: Beide Seiten stimmen überein.', unplanned: 'Ausgelassen', unplannedHint: 'Damit geschah nichts, in keiner Richtung, und nichts davon wurde gelöscht.', filter: 'Nach Pfad filtern',
    of: '{{shown, number}} von {{total, number}}',
    held: {
      title_one: '{{count, number}} Löschung wartet auf dich', title_other: '{{count, number}} Löschungen warten auf dich', text: 'Dieser Lauf würde mehr löschen als üblich, deshalb hat er nichts gelöscht. Alles andere ist abgeglichen. Sieh die Liste durch und entscheide dann.',
      approve_one: 'Diese Datei löschen', approve_other: 'Diese {{count, number}} Dateien löschen', discard: 'Alle Dateien behalten', approveTitle: 'Diese Dateien löschen?', approveText_one: '{{count, number}} Datei wird gelöscht, genau die aufgeführte. Versionen bleiben in der Historie.', approveText_other: '{{count, number}} Dateien werden gelöscht, genau die aufgeführten. Versionen bleiben in der Historie.',
      discardTitle: 'Alle Dateien behalten?', discardText: 'Der Lauf endet und löscht nichts. Was auf einer Seite fehlt, fehlt dort bis zum nächsten Lauf.', list: 'Was gelöscht würde',
      folderTitle: 'Der Ordner wartet auf dich', folderText: 'Nichts wurde gelöscht oder geändert. Bring den Ordner in Ordnung und versuche es dann erneut.', end: 'Lauf beenden',
    },
    action: { upload: 'Hochladen', download: 'Herunterladen', copy: 'Kopieren', set_metadata: 'Zeit setzen', move: 'Verschieben', create_folder: 'Neuer Ordner', delete: 'Löschen', delete_folder: 'Ordner entfernen', delete_device: 'Auf Gerät löschen', delete_server: 'Auf Server löschen', conflict: 'Konflikt' },
    side: { device: 'auf Gerät', server: 'auf Server' },
    kept: { device: 'Die des Geräts bleibt.', server: 'Die des Servers bleibt.', both: 'Beide bleiben.', open: 'Bleibt auf beiden Seiten, wie es ist.' },
    andMore: 'Und {{count, number}} weitere.', notRun: 'Warum er nicht lief',
    count: { executed: 'Schritte', uploaded: 'Hochgeladen', downloaded: 'Heruntergeladen', deleted_on_device: 'Auf Gerät gelöscht', deleted_on_server: 'Auf Server gelöscht', moved: 'Verschoben', folders: 'Ordner', conflicts: 'Konflikte', skipped: 'Ausgelassen', bytes_uploaded: 'Zum Server', bytes_downloaded: 'Zum Gerät' },
    reason: {
      name: { ignored: 'Durch Regel ausgenommen', not_utf8: 'Name ist kein UTF-8', clash: 'Zwei Namen für einen Pfad' },
      file: { link: 'Symbolischer Link', socket: 'Socket', fifo: 'Benannte Pipe', device: 'Gerätedatei', unreadable: 'Nicht lesbar', unstable: 'Beim Lesen geändert' },
      folder: { other_file_system: 'Hier ist eine andere Platte eingehängt' },
      path: { too_long: 'Pfad zu lang', name_too_long: 'Name zu lang', too_deep: 'Zu tief verschachtelt', control: 'Steuerzeichen im Namen' },
    },
  },
  devices: {
    title: 'Geräte', lead: 'Womit deine Dateien abgeglichen werden.', empty: 'Noch keine Geräte', emptyHint: 'Melde das erste auf der Seite Sync an.', toSync: 'Gerät anmelden', client: 'Rechner', remote: 'Ordner auf dem Server', seen: 'Zuletzt gesehen', pending: 'Ausstehend', pendingCount_one: '{{count, number}} Änderung', pendingCount_other: '{{count, number}} Änderungen',
    conflicts_one: '{{count, number}} Konflikt', conflicts_other: '{{count, number}} Konflikte', inStep: 'Im Gleichstand', base: 'Dateien', edit: 'Bearbeiten', remove: 'Entfernen', editTitle: 'Gerät bearbeiten', name: 'Name', ignore: 'Ausnahmen', ignoreHint: 'Eine je Zeile, wie in .gitignore. Was passt, bleibt auf beiden Seiten unberührt und wird nie gelöscht.',
    changed: 'Gerät gespeichert.', removeTitle: '{{name}} entfernen?', removeText: 'Seine Zeitpläne enden, sein Zugang erlischt sofort. Keine Datei wird gelöscht, weder hier noch dort.', removed: 'Gerät entfernt.',
  },
  activity: {
    title: 'Protokoll', lead: 'Das Audit-Log: wer was tat und was von selbst geschah.', action: 'Aktion', level: 'Stufe', levels: { info: 'Info', warning: 'Warnung', error: 'Fehler' }, since: 'Seit', empty: 'Noch nichts', emptyHint: 'Anmeldungen, Änderungen an Zeitplänen und Läufe erscheinen hier.',
    emptyFilter: 'Nichts passt', emptyFilterHint: 'Wähle andere Filter.', details: 'Einzelheiten', by: 'von {{name}}', byItself: 'von selbst',
  },
  jobs: {
    title: 'Jobs', lead: 'Woran der Server arbeitet, was wartet und was schiefging.', refused: 'Nur Administratoren sehen die Jobs', refusedHint: 'Sie gehören zum ganzen Server. Frage einen Administrator, oder sieh dir deine eigenen Läufe an.', toRuns: 'Zu deinen Läufen',
    queues: {
      title: 'Warteschlangen', lead: 'Aus ihnen nehmen die Worker ihre Jobs.', empty: 'Noch keine Warteschlangen', emptyHint: 'Kein Worker läuft, und nichts wartet. Starte einen mit „driftless serve“ oder „driftless work“.', ready: 'Warten', scheduled: 'Später', running: 'Laufen', dead: 'Gescheitert', age: 'Ältester wartet', about: '≈ {{number}}', paused: 'Angehalten',
      pause: 'Anhalten', resume: 'Fortsetzen', pauseOf: '{{queue}} anhalten', resumeOf: '{{queue}} fortsetzen', pausedDone: '{{queue}} ist angehalten. Was läuft, läuft weiter.', resumedDone: '{{queue}} geht weiter.',
    },
    throughput: { title: 'Die letzte Stunde', done: 'Erledigt', failed: 'Fehlversuche', dead: 'Gescheitert', run: 'Laufzeit im Mittel', wait: 'Wartezeit im Mittel', perMinute: 'höchstens {{count}} in einer Minute', chart: 'Jobs in jeder Minute der letzten Stunde: {{done}} erledigt, {{failed}} Fehlversuche.', ago: 'vor 1 Std.', now: 'jetzt', minute: '{{time}}: {{done}} erledigt, {{failed}} Fehlversuche' },
    list: {
      title: 'Jobs', which: 'Welche Jobs', running: 'Laufend', waiting: 'Wartend', dead: 'Gescheitert', finished: 'Beendet', queue: 'Warteschlange',
      none: { running: 'Nichts läuft', waiting: 'Nichts wartet', dead: 'Keine gescheiterten Jobs', finished: 'Keine beendeten Jobs' },
      noneHint: { running: 'Jobs erscheinen hier, solange ein Worker sie bearbeitet.', waiting: 'Jobs erscheinen hier, bis ein Worker sie nimmt.', dead: 'Jobs, die endgültig scheiterten, erscheinen hier mit ihrem Fehler.', finished: 'Von Hand gestartete regelmäßige Jobs und abgebrochene werden hier 7 Tage aufbewahrt; andere verschwinden, wenn sie erledigt sind.' },
      attempt: 'Versuch {{attempt}} von {{max}}', attempts_one: '{{count}} Versuch', attempts_other: '{{count}} Versuche', due: 'Fällig', created: 'Angelegt', ended: 'Beendet', by: 'Von {{worker}}', details: 'Einzelheiten', lastError: 'Letzter Fehler', progress: '{{done}} von {{total}}',
      cancel: 'Abbrechen', cancelOf: 'Job {{id}} abbrechen', cancelTitle: 'Job {{id}} abbrechen?', cancelText: 'Seine Arbeit endet hier und wird nicht noch einmal versucht.', keep: 'Behalten', cancelled: 'Job {{id}} ist abgebrochen.', cancelling: 'Job {{id}} soll enden.',
      retry: 'Erneut versuchen', retryOf: 'Job {{id}} erneut versuchen', retried: 'Job {{id}} wartet wieder.', discard: 'Verwerfen', discardOf: 'Job {{id}} verwerfen', discardTitle: 'Job {{id}} verwerfen?', discardText: 'Er läuft dann nie wieder. Sein Fehler bleibt im Protokoll.', discarded: 'Job {{id}} ist verworfen.',
    },
    state: { scheduled: 'Später', ready: 'Wartet', running: 'Läuft', done: 'Erledigt', cancelled: 'Abgebrochen', dead: 'Gescheitert' },
    crons: { title: 'Regelmäßige Jobs', lead: 'Geschehen von selbst, jedes Mal durch einen Worker.', empty: 'Noch keine', emptyHint: 'Der erste Worker, der startet, meldet sie an.', last: 'Zuletzt', never: 'Noch nie', next: 'Nächstes Mal', minute: 'jede Minute', day: 'täglich um {{time}} {{zone}}', run: 'Jetzt starten', runOf: 'Jetzt starten: {{name}}', started: '{{name}} wartet auf einen Worker.' },
    cron: { cleanup: 'Tägliches Aufräumen', rescue_runs: 'Nach gestrandeten Läufen sehen' },
    workers: { title: 'Worker', lead: 'Prozesse, die die Jobs erledigen.', empty: 'Kein Worker läuft', emptyHint: 'Nichts geschieht, bis einer startet: „driftless serve“ oder „driftless work“.', alive: 'Lebt', lost: 'Verloren', serves: 'Bedient', servesNone: 'keine Warteschlange', running: 'Laufen', started: 'Gestartet', lease: 'Frist bis', process: 'Prozess {{pid}} auf {{host}}' },
  },
  settings: {
    title: 'Einstellungen', lead: 'Nur deine; bis auf das Passwort in diesem Browser aufbewahrt.', password: 'Passwort', passwordLead: 'Wenn du es änderst, enden alle deine anderen Sitzungen.', current: 'Bisheriges Passwort', next: 'Neues Passwort', nextHint: 'Mindestens 12 Zeichen. Ein Satz lässt sich leicht merken.', again: 'Neues Passwort noch einmal',
    mismatch: 'Die beiden neuen Passwörter sind verschieden.', submit: 'Passwort ändern', done: 'Passwort geändert. Andere Sitzungen sind beendet.', look: 'Sprache und Aussehen', language: 'Sprache', theme: 'Aussehen', light: 'Hell', dark: 'Dunkel', auto: 'Wie das System', account: 'Konto', admin: 'Administrator', member: 'Mitglied', zone: 'Deine Zeitzone', zoneHint: 'Vom Browser übernommen.',
  },
  notFound: { title: 'Diese Seite gibt es nicht', text: 'Vielleicht ist die Adresse verschrieben, oder was sie nannte, ist fort.', home: 'Zu Sync' },
  crash: { title: 'Diese Seite ist gestört', text: 'Ein Fehler von uns. Oft hilft es, die Seite neu zu laden.', reload: 'Neu laden' },
}
