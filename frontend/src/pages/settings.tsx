//! The account's password, and how the app looks in this browser.
import { Button, PasswordInput, SegmentedControl, Stack, Text, useMantineColorScheme, Input } from '@mantine/core'
import { IconLock, IconPalette, IconUser } from '@tabler/icons-react'
import { useMutation } from '@tanstack/react-query'
import { useState, type FormEvent } from 'react'
import { useTranslation } from 'react-i18next'
import { toFailure } from '../api/failure'
import { changePasswordMutation } from '../api/generated/@tanstack/react-query.gen'
import { useSession } from '../api/use-session'
import { userZone } from '../format/time'
import { LANGUAGES, setLanguage, type Language } from '../i18n'
import { useFieldError } from '../parts/field-error'
import { Block, Page } from '../parts/page'
import { Failed } from '../parts/states'
import { tell } from '../parts/tell'

const NOTHING = { current: '', next: '', again: '' }

function Password({ username }: { username: string }) {
  const { t } = useTranslation()
  const [words, setWords] = useState(NOTHING)
  const changing = useMutation({ ...changePasswordMutation(), onSuccess: () => { setWords(NOTHING); tell(t('settings.done')) } })
  const failure = changing.error ? toFailure(changing.error) : undefined
  const fieldError = useFieldError(failure)
  const differ = words.again !== '' && words.again !== words.next
  const field = (name: keyof typeof NOTHING) => ({
    value: words[name], required: true, withAsterisk: false,
    onChange: (event: { currentTarget: { value: string } }) => { const { value } = event.currentTarget; setWords((old) => ({ ...old, [name]: value })) },
  })
  const submit = (event: FormEvent) => {
    event.preventDefault()
    if (!differ) changing.mutate({ body: { current_password: words.current, new_password: words.next } })
  }
  return (
    <Block title={t('settings.password')} lead={t('settings.passwordLead')} icon={IconLock}>
      <form onSubmit={submit}>
        <Stack maw={420}>
          <input type="text" name="username" autoComplete="username" value={username} readOnly hidden />
          <PasswordInput visibilityToggleButtonProps={{ 'aria-label': t('common.reveal') }} label={t('settings.current')} autoComplete="current-password" {...field('current')} error={fieldError('current_password')} />
          <PasswordInput visibilityToggleButtonProps={{ 'aria-label': t('common.reveal') }} label={t('settings.next')} description={t('settings.nextHint')} autoComplete="new-password" minLength={12} maxLength={128} {...field('next')} error={fieldError('new_password')} />
          <PasswordInput visibilityToggleButtonProps={{ 'aria-label': t('common.reveal') }} label={t('settings.again')} autoComplete="new-password" {...field('again')} error={differ ? t('settings.mismatch') : undefined} />
          {failure && !failure.field ? <Failed error={failure} /> : null}
          <Button type="submit" loading={changing.isPending} disabled={differ}>{t('settings.submit')}</Button>
        </Stack>
      </form>
    </Block>
  )
}

function Look() {
  const { t, i18n } = useTranslation()
  const { colorScheme, setColorScheme } = useMantineColorScheme()
  return (
    <Block title={t('settings.look')} icon={IconPalette}>
      <Stack maw={420}>
        <Input.Wrapper label={t('settings.language')} labelElement="div">
          <SegmentedControl mt={4} fullWidth aria-label={t('settings.language')} value={i18n.language as Language} onChange={(language) => void setLanguage(language)} data={(Object.keys(LANGUAGES) as Language[]).map((value) => ({ value, label: LANGUAGES[value] }))} />
        </Input.Wrapper>
        <Input.Wrapper label={t('settings.theme')} labelElement="div">
          <SegmentedControl mt={4} fullWidth aria-label={t('settings.theme')} value={colorScheme} onChange={setColorScheme} data={(['auto', 'light', 'dark'] as const).map((value) => ({ value, label: t(`settings.${value}`) }))} />
        </Input.Wrapper>
        <Text size="sm"><Text span c="dimmed" inherit>{t('settings.zone')}:</Text> {userZone}. {t('settings.zoneHint')}</Text>
      </Stack>
    </Block>
  )
}

export function Settings() {
  const { t } = useTranslation()
  const session = useSession()
  if (session.state !== 'in') return null
  const { username, is_admin } = session.user
  return (
    <Page title={t('settings.title')} name={t('nav.settings')} lead={t('settings.lead')}>
      <Block title={t('settings.account')} icon={IconUser}><Text>{username} · <Text span c="dimmed" inherit>{is_admin ? t('settings.admin') : t('settings.member')}</Text></Text></Block>
      <Look />
      <Password username={username} />
    </Page>
  )
}
