//! Block 3: how fast syncing may be, written as people write rates and kept as bytes per second.
import { Button, Group, Select, Stack, Switch, Text, TextInput } from '@mantine/core'
import { IconGauge } from '@tabler/icons-react'
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { useState, type FormEvent } from 'react'
import { useTranslation } from 'react-i18next'
import { toFailure } from '../../api/failure'
import type { BandwidthLimit } from '../../api/generated'
import { getBandwidthLimitOptions, getBandwidthLimitQueryKey, setBandwidthLimitMutation } from '../../api/generated/@tanstack/react-query.gen'
import { parseRate, rate } from '../../format/rate'
import { useFieldError } from '../../parts/field-error'
import { Block } from '../../parts/page'
import { Failed, Loading } from '../../parts/states'
import { tell } from '../../parts/tell'
import classes from './sync.module.css'

const HOURS = Array.from({ length: 24 }, (_, hour) => ({ value: String(hour), label: `${String(hour).padStart(2, '0')}:00` }))

interface RateFieldProps { label: string; text: string; onChange: (text: string) => void; error: string | undefined }

function RateField({ label, text, onChange, error }: RateFieldProps) {
  const { t, i18n } = useTranslation()
  const read = parseRate(text)
  const meaning = !read.ok ? null : read.value === null ? t('sync.limits.unlimited') : t('sync.limits.exact', { value: new Intl.NumberFormat(i18n.language).format(read.value) })
  return (
    <TextInput
      label={label} value={text} onChange={(event) => onChange(event.currentTarget.value)} autoComplete="off" placeholder={t('sync.limits.unlimited')}
      description={meaning} inputWrapperOrder={['label', 'input', 'description', 'error']} error={error ?? (read.ok ? undefined : t('sync.limits.invalid'))}
    />
  )
}

function LimitsForm({ saved }: { saved: BandwidthLimit }) {
  const { t, i18n } = useTranslation()
  const queries = useQueryClient()
  const words = (value: number | null | undefined) => (value == null ? '' : rate(value, i18n.language))
  const [up, setUp] = useState(() => words(saved.upload_speed_limit))
  const [down, setDown] = useState(() => words(saved.download_speed_limit))
  const [throttle, setThrottle] = useState(saved.throttle_enabled)
  const [from, setFrom] = useState(saved.throttle_start_hour)
  const [to, setTo] = useState(saved.throttle_end_hour)
  const saving = useMutation({
    ...setBandwidthLimitMutation(),
    onSuccess: (now) => {
      queries.setQueryData(getBandwidthLimitQueryKey(), now)
      tell(t('sync.limits.done'))
    },
  })
  const failure = saving.error ? toFailure(saving.error) : undefined
  const fieldError = useFieldError(failure)
  const [upload, download] = [parseRate(up), parseRate(down)]
  const submit = (event: FormEvent) => {
    event.preventDefault()
    if (!upload.ok || !download.ok) return
    saving.mutate({ body: { upload_speed_limit: upload.value ?? undefined, download_speed_limit: download.value ?? undefined, throttle_enabled: throttle, throttle_start_hour: from, throttle_end_hour: to } })
  }
  return (
    <form onSubmit={submit}>
      <Stack>
        <div className={classes.rule}>
          <RateField label={t('sync.limits.upload')} text={up} onChange={setUp} error={fieldError('upload_speed_limit')} />
          <RateField label={t('sync.limits.download')} text={down} onChange={setDown} error={fieldError('download_speed_limit')} />
        </div>
        <Text c="dimmed" size="xs">{t('sync.limits.hint')}</Text>
        <Switch label={t('sync.limits.throttle')} description={t('sync.limits.throttleHint')} checked={throttle} onChange={(event) => setThrottle(event.currentTarget.checked)} />
        {throttle ? (
          <div>
            <Group grow>
              <Select label={t('sync.limits.from')} data={HOURS} allowDeselect={false} value={String(from)} onChange={(hour) => setFrom(Number(hour))} error={fieldError('throttle_start_hour')} />
              <Select label={t('sync.limits.to')} data={HOURS} allowDeselect={false} value={String(to)} onChange={(hour) => setTo(Number(hour))} error={fieldError('throttle_end_hour')} />
            </Group>
            <Text c="dimmed" size="xs" mt={6}>{t('sync.limits.zone')}</Text>
          </div>
        ) : null}
        {failure && !failure.field ? <Failed error={failure} /> : null}
        <Button type="submit" variant="default" disabled={!upload.ok || !download.ok} loading={saving.isPending}>{t('sync.limits.submit')}</Button>
      </Stack>
    </form>
  )
}

export function Limits() {
  const { t } = useTranslation()
  const limits = useQuery(getBandwidthLimitOptions())
  return (
    <Block title={t('sync.limits.title')} lead={t('sync.limits.lead')} icon={IconGauge}>
      {limits.data ? <LimitsForm saved={limits.data} /> : limits.error ? <Failed error={limits.error} title={t('failure.load')} retry={() => void limits.refetch()} /> : <Loading />}
    </Block>
  )
}
