//! What the user's files are kept in step with: rename, choose its part of the tree, what it ignores, remove it.
import { ActionIcon, Button, Group, Menu, Text, Textarea, TextInput } from '@mantine/core'
import { IconDeviceLaptop, IconDots, IconEdit, IconFolder, IconTrash } from '@tabler/icons-react'
import { useInfiniteQuery, useMutation, useQueryClient } from '@tanstack/react-query'
import { useState } from 'react'
import { useTranslation } from 'react-i18next'
import { Link } from 'react-router'
import { toFailure } from '../api/failure'
import type { Device } from '../api/generated'
import { deleteDeviceMutation, listDevicesInfiniteOptions, listDevicesQueryKey, patchDeviceMutation } from '../api/generated/@tanstack/react-query.gen'
import { userZone } from '../format/time'
import { Badge } from '../parts/badge'
import { Confirm } from '../parts/confirm'
import { Edit } from '../parts/edit'
import { useFieldError } from '../parts/field-error'
import { Listed } from '../parts/listed'
import { Block, Page } from '../parts/page'
import { Cell, Row } from '../parts/rows'
import { Empty } from '../parts/states'
import { tell } from '../parts/tell'
import { When } from '../parts/when'

function EditDevice({ device, onClose }: { device: Device; onClose: () => void }) {
  const { t } = useTranslation()
  const queries = useQueryClient()
  const [name, setName] = useState(device.device_name)
  const [base, setBase] = useState(device.base_path)
  const [ignore, setIgnore] = useState(device.ignore.join('\n'))
  const saving = useMutation({
    ...patchDeviceMutation(),
    onSuccess: async () => {
      await queries.invalidateQueries({ queryKey: listDevicesQueryKey() })
      tell(t('devices.changed'))
      onClose()
    },
  })
  const failure = saving.error ? toFailure(saving.error) : undefined
  const fieldError = useFieldError(failure)
  return (
    <Edit
      title={t('devices.editTitle')} busy={saving.isPending} onClose={onClose} failure={failure?.field ? undefined : failure}
      onSave={() => saving.mutate({ path: { device_id: device.device_id }, body: { device_name: name.trim(), base_path: base.trim(), ignore: ignore.split('\n').filter((line) => line.trim() !== '') } })}
    >
      <TextInput label={t('devices.name')} required withAsterisk={false} maxLength={255} value={name} onChange={(event) => setName(event.currentTarget.value)} error={fieldError('device_name', 'name')} />
      <TextInput label={t('sync.register.base')} description={t('sync.register.baseHint')} required withAsterisk={false} spellCheck={false} value={base} onChange={(event) => setBase(event.currentTarget.value)} error={fieldError('base_path')} />
      <Textarea label={t('devices.ignore')} description={t('devices.ignoreHint')} autosize minRows={3} maxRows={10} spellCheck={false} value={ignore} onChange={(event) => setIgnore(event.currentTarget.value)} error={fieldError('ignore')} />
    </Edit>
  )
}

function DeviceActions({ device }: { device: Device }) {
  const { t } = useTranslation()
  const queries = useQueryClient()
  const [asked, ask] = useState<'edit' | 'remove'>()
  const removing = useMutation({
    ...deleteDeviceMutation(),
    onSuccess: () => { tell(t('devices.removed')); return queries.invalidateQueries({ queryKey: listDevicesQueryKey() }) },
  })
  return (
    <>
      <Menu position="bottom-end">
        <Menu.Target>
          <ActionIcon variant="subtle" color="gray" size="lg" aria-label={t('common.actionsFor', { name: device.device_name })}><IconDots size={18} aria-hidden /></ActionIcon>
        </Menu.Target>
        <Menu.Dropdown>
          <Menu.Item leftSection={<IconEdit size={16} aria-hidden />} onClick={() => ask('edit')}>{t('devices.edit')}</Menu.Item>
          <Menu.Item c="var(--bad)" leftSection={<IconTrash size={16} aria-hidden />} onClick={() => ask('remove')}>{t('devices.remove')}</Menu.Item>
        </Menu.Dropdown>
      </Menu>
      {asked === 'edit' ? <EditDevice device={device} onClose={() => ask(undefined)} /> : null}
      <Confirm
        opened={asked === 'remove'} onClose={() => ask(undefined)} title={t('devices.removeTitle', { name: device.device_name })} text={t('devices.removeText')} confirm={t('devices.remove')}
        busy={removing.isPending} error={removing.error} onConfirm={() => removing.mutate({ path: { device_id: device.device_id } })}
      />
    </>
  )
}

function DeviceRow({ device }: { device: Device }) {
  const { t } = useTranslation()
  const KindIcon = device.kind === 'remote' ? IconFolder : IconDeviceLaptop
  return (
    <Row columns="minmax(0, 5fr) minmax(0, 3fr) minmax(0, 3fr) auto">
      <Cell>
        <Group gap="sm" wrap="nowrap" align="flex-start">
          <KindIcon size={20} stroke={1.6} aria-label={t(`devices.${device.kind}`)} role="img" />
          <div>
            <Text fw={600}>{device.device_name}</Text>
            <Text size="sm" c="dimmed" className="mono">{device.remote?.path ?? device.device_id}</Text>
            {device.base_path === '/' ? null : <Text size="sm" c="dimmed">{t('devices.base')}: <span className="mono">{device.base_path}</span></Text>}
          </div>
        </Group>
      </Cell>
      <Cell label={t('devices.seen')}>{device.last_seen_at ? <When at={device.last_seen_at} /> : t('common.never')}</Cell>
      <Cell label={t('devices.pending')}>
        <Group gap={6}>
          {device.pending_changes > 0 ? <Badge tone="busy">{t('devices.pendingCount', { count: device.pending_changes })}</Badge> : <Badge tone="good">{t('devices.inStep')}</Badge>}
          {device.conflicts > 0 ? <Badge tone="warn">{t('devices.conflicts', { count: device.conflicts })}</Badge> : null}
        </Group>
      </Cell>
      <Cell end><DeviceActions device={device} /></Cell>
    </Row>
  )
}

export function Devices() {
  const { t } = useTranslation()
  const list = useInfiniteQuery({
    ...listDevicesInfiniteOptions(), initialPageParam: {}, getNextPageParam: (page) => page.next_cursor ?? undefined, refetchInterval: 2_000,
  })
  const devices = list.data?.pages.flatMap((page) => page.devices) ?? []
  return (
    <Page title={t('devices.title')} name={t('nav.devices')} lead={<>{t('devices.lead')} {t('common.times', { zone: userZone })}</>}>
      <Block title={t('devices.title')} hideHead>
        <Listed
          query={list} items={devices} label={t('devices.title')}
          empty={<Empty icon={IconDeviceLaptop} title={t('devices.empty')} hint={t('devices.emptyHint')} action={<Button component={Link} to="/sync" variant="light">{t('devices.toSync')}</Button>} />}
        >
          {(device) => <DeviceRow key={device.device_id} device={device} />}
        </Listed>
      </Block>
    </Page>
  )
}
